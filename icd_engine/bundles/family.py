"""The model families: which parts a folder of each has, and in what they differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icd_engine.bundles.files import read_json
from icd_engine.errors import BundleError

MODEL_INDEX = "model_index.json"
DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
DIFFERENCE = "unet_forward/difference.safetensors"  # from the reverse network, see lora.difference


@dataclass(frozen=True)
class Family:
    """A family of models as the reference treats it.

    pipeline: diffusers' class, by which a folder is known. text_encoders: how many.
    samples_posterior: whether pictures become a sample of the VAE's posterior instead of its mean.
    rounds_lora: whether LoRA factors are rounded to fp16 before they are fused. guidance_scale: the
    reference's default w.
    """

    name: str
    pipeline: str
    text_encoders: int
    samples_posterior: bool
    rounds_lora: bool
    guidance_scale: float

    @property
    def configs(self) -> dict[str, str]:
        """Part -> its configuration file: tokenizers, scheduler, text encoders, vae, unet,
        unet_forward."""
        networks = dict.fromkeys(
            (*self._numbered("text_encoder"), "vae", "unet", "unet_forward"), "config.json"
        )
        tokenizers = dict.fromkeys(self._numbered("tokenizer"), "tokenizer_config.json")
        return tokenizers | {"scheduler": "scheduler_config.json"} | networks

    @property
    def weights(self) -> dict[str, str]:
        """Part -> its weight file."""
        text = dict.fromkeys(self._numbered("text_encoder"), "model.safetensors")
        return text | dict.fromkeys(("vae", "unet", "unet_forward"), DIFFUSERS_WEIGHTS)

    @property
    def tokenizers(self) -> list[str]:
        return self._numbered("tokenizer")

    def _numbered(self, part: str) -> list[str]:
        return [part if i == 0 else f"{part}_{i + 1}" for i in range(self.text_encoders)]


FAMILIES = {
    family.name: family
    for family in (
        Family(
            "sd15",
            "StableDiffusionPipeline",
            1,
            samples_posterior=False,
            rounds_lora=True,
            guidance_scale=19.0,
        ),
        Family(
            "sdxl",
            "StableDiffusionXLPipeline",
            2,
            samples_posterior=True,
            rounds_lora=False,
            guidance_scale=7.0,
        ),
    )
}


def read_family(folder: Path) -> Family:
    """The family by `_class_name` of model_index.json.

    Raises BundleError for one that is not supported.
    """
    name = read_json(folder, MODEL_INDEX).get("_class_name")
    for family in FAMILIES.values():
        if family.pipeline == name:
            return family
    known = ", ".join(family.pipeline for family in FAMILIES.values())
    raise BundleError(f"{MODEL_INDEX}: {name!r} is not supported (only {known})")
