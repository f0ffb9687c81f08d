"""The model families: which parts a folder of each has, and in what they differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icd_engine.bundles.files import read_json
from icd_engine.errors import BundleError, shown

MODEL_INDEX = "model_index.json"
DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
TEXT_WEIGHTS = "model.safetensors"
TEXT_TIME = "text_time"  # what SDXL's UNet adds to its time step
DIFFERENCE = "unet_forward/difference.safetensors"  # from the decode network, see lora.difference


@dataclass(frozen=True)
class Family:
    """A family of models as the reference treats it.

    pipeline: diffusers' class for such a model; has_safety_checker: whether that class asks for one,
    and for its feature extractor, which nothing here uses. text_encoders: how many.
    samples_posterior: whether pictures become a sample of the VAE's posterior instead of its mean.
    rounds_lora: whether LoRA factors are rounded to fp16 before they are fused. guidance_scale: the
    reference's default w.
    """

    name: str
    pipeline: str
    has_safety_checker: bool
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
        text = dict.fromkeys(self._numbered("text_encoder"), TEXT_WEIGHTS)
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
            has_safety_checker=True,
            text_encoders=1,
            samples_posterior=False,
            rounds_lora=True,
            guidance_scale=19.0,
        ),
        Family(
            "sdxl",
            "StableDiffusionXLPipeline",
            has_safety_checker=False,
            text_encoders=2,
            samples_posterior=True,
            rounds_lora=False,
            guidance_scale=7.0,
        ),
    )
}


def read_family(folder: Path) -> Family:
    """The family by what the parts are, whichever pipeline the folder was saved from: SDXL's UNet
    takes further conditions ("text_time"), beside a second text encoder.

    Raises BundleError for what is neither family.
    """
    name = read_json(folder, MODEL_INDEX).get("_class_name")
    known = [family.pipeline for family in FAMILIES.values()]
    if name not in known and not (folder / "unet").is_dir():
        raise BundleError(
            f"{MODEL_INDEX}: {shown(name)} has no unet: only Stable Diffusion 1.5 and XL are supported"
        )
    conditions = read_json(folder, "unet/config.json").get("addition_embed_type")
    if conditions not in (None, TEXT_TIME):
        raise BundleError(
            f"unet/config.json: addition_embed_type {shown(conditions)} is not supported "
            f"(only {TEXT_TIME!r}, or none)"
        )
    is_xl = conditions == TEXT_TIME or (folder / "text_encoder_2").is_dir()
    return FAMILIES["sdxl" if is_xl else "sd15"]
