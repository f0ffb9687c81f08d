"""The base model a distillation starts from: a diffusers folder, of which all but the UNet stays as
it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from torch import Tensor
from transformers.utils import logging as transformers_logging

from icd_engine.bundles.family import read_family
from icd_engine.bundles.files import read_json
from icd_engine.errors import BundleError, SettingsError
from icd_engine.networks.text_encoder import PromptFeatures
from icd_engine.sampling.schedule import NoiseSchedule
from training.processes import device

GUIDANCE_CHANNELS = 512
SCHEDULER = "scheduler/scheduler_config.json"


class Base:
    """Text encoders and VAE of an SD1.5 or SDXL folder, frozen, float32, on this process's device.

    Raises BundleError for a folder that is not one.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            self.family = read_family(self.folder)
            scheduler = read_json(self.folder, SCHEDULER)
            self.schedule = NoiseSchedule.from_config(scheduler)
            # SettingsError where the last time step is noise alone
            self.schedule.hop(self.schedule.steps - 1, 0)
        except SettingsError as error:
            raise BundleError(f"{folder}: {SCHEDULER}: {error}") from None
        except BundleError as error:
            raise BundleError(f"{folder} is no base model: {error}") from None
        prediction = scheduler.get("prediction_type", "epsilon")
        if prediction != "epsilon":
            raise BundleError(f"{folder}: prediction_type {prediction!r} is not supported")
        unused: dict[str, Any] = {"unet": None}
        if self.family.has_safety_checker:
            unused |= {
                "safety_checker": None,
                "feature_extractor": None,
                "requires_safety_checker": False,
            }
        for logging in (diffusers_logging, transformers_logging):
            logging.set_verbosity_error()
            logging.disable_progress_bar()
        try:
            # The family's own class, whichever pipeline the folder was saved from
            pipeline: Any = getattr(diffusers, self.family.pipeline).from_pretrained(
                self.folder, local_files_only=True, dtype=torch.float32, **unused
            )
        except (OSError, ValueError) as error:
            raise BundleError(f"{folder}: {' '.join(str(error).split())[:300]}") from None
        self._pipeline = pipeline.to(device())
        self._vae = self._pipeline.vae.eval().requires_grad_(False)
        self.scaling_factor: float = self._vae.config.scaling_factor
        self.downscale: int = 2 ** (len(self._vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode_prompts(self, captions: Sequence[str]) -> PromptFeatures:
        """[B, n, C], and SDXL's pooled [B, P]; what is longer than a prompt may be is cut."""
        found = self._pipeline.encode_prompt(
            list(captions),
            device=device(),
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        return PromptFeatures(found[0], found[2] if len(found) > 2 else None)

    def empty_prompts(self, count: int) -> PromptFeatures:
        """What guidance leads away from: the empty prompt, or zeros where the base was trained on
        them (SDXL)."""
        found = self.encode_prompts([""] * count)
        if not self._pipeline.config.get("force_zeros_for_empty_prompt", False):
            return found
        return PromptFeatures(
            torch.zeros_like(found.tokens), None if found.pooled is None else found.pooled * 0
        )

    @torch.no_grad()
    def moments(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures [B, 3, H, W] in [-1, 1] -> mean and deviation of their latents [B, 4, h, w], not
        scaled."""
        posterior = self._vae.encode(pictures.to(device())).latent_dist
        return posterior.mean, posterior.std

    def to_pictures(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, 4, h, w] -> [B, 3, H, W], about [-1, 1]; gradients pass."""
        return self._vae.decode(latents / self.scaling_factor).sample

    def unet(self) -> UNet2DConditionModel:
        """The base's own, which needs two passes for guidance."""
        return load_unet(self.folder / "unet")

    def guided_unet(self) -> UNet2DConditionModel:
        """The same weights in a network that takes w; at first it ignores it."""
        plain = self.unet()
        network = new_unet({**plain.config, "time_cond_proj_dim": GUIDANCE_CHANNELS})
        missing, unexpected = network.load_state_dict(plain.state_dict(), strict=False)
        assert missing == ["time_embedding.cond_proj.weight"] and not unexpected, (
            missing,
            unexpected,
        )
        torch.nn.init.zeros_(network.get_parameter(missing[0]))
        return network


def new_unet(config: Mapping[str, Any], place: torch.device | None = None) -> UNet2DConditionModel:
    """A network of this configuration, its weights still random, on `place` (default: this
    process's device)."""
    # What a file left to its reader's defaults is noted there, and would be left to them again.
    values = {key: value for key, value in config.items() if key != "_use_default_values"}
    with place or device():
        network = UNet2DConditionModel.from_config(values)
    assert isinstance(network, UNet2DConditionModel)
    return network


def load_unet(folder: Path) -> UNet2DConditionModel:
    """A diffusers UNet folder, float32, on this process's device.

    BundleError where it is not one.
    """
    try:
        loaded: Any = UNet2DConditionModel.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise BundleError(f"{folder}: {' '.join(str(error).split())[:300]}") from None
    found, problems = loaded
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if problems.get(kind):
            raise BundleError(f"{folder}: {kind.replace('_', ' ')}: {problems[kind][0]!r}")
    return found.float().to(device())
