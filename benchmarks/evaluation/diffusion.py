"""A diffusion model that is not distilled, for the methods iCD is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from icd_engine.bundles.family import DIFFUSERS_WEIGHTS
from icd_engine.bundles.files import read_json, read_weights
from icd_engine.editing.plan import EditStep
from icd_engine.engine import Engine
from icd_engine.errors import BundleError
from icd_engine.images import to_size
from icd_engine.networks.text_encoder import PromptFeatures
from icd_engine.networks.unet import AddedConditions, UNet
from icd_engine.runners.contract import TIME_IDS
from icd_engine.sampling.noise import normal_noise
from icd_engine.sampling.schedule import NoiseSchedule
from training.losses import GRID, Boundaries

LATENT_CHANNELS = 4


class Diffusion:
    """UNet, text encoder and VAE; `calls` counts UNet passes, whatever their rows.

    sees_picture: the UNet takes the picture's latents beside the noisy ones (InstructPix2Pix).
    """

    def __init__(self, engine: Engine, unet: UNet):
        self.engine = engine
        self.unet = unet.eval().requires_grad_(False)
        self.calls = 0
        self.sees_picture = unet.in_channels == 2 * LATENT_CHANNELS
        self.scaling_factor: float = engine.bundle.config("vae")["scaling_factor"]
        schedule = NoiseSchedule.from_config(engine.bundle.config("scheduler"))
        if schedule.prediction != "epsilon":
            raise BundleError(f"prediction_type {schedule.prediction!r}: these methods take noise")
        self.tables = Boundaries(schedule, engine.runner.device)

    @classmethod
    def load(cls, engine: Engine, folder: Path) -> Diffusion:
        """The engine's VAE and text encoder with the UNet of a diffusers folder. BundleError."""
        config = read_json(folder, "config.json")
        if config.get("time_cond_proj_dim") is not None:
            raise BundleError(
                f"{folder}: a guidance-distilled network is no teacher for these methods"
            )
        with torch.device("meta"):
            bundle = engine.bundle
            unet = UNet(
                config,
                blend_downscale=bundle.blend_downscale,
                share_downscale=bundle.share_downscale,
            )
        weights = {
            key: value.float() for key, value in read_weights(folder / DIFFUSERS_WEIGHTS).items()
        }
        unet.load_state_dict(weights, strict=True, assign=True)
        return cls(engine, unet.to(engine.runner.device))

    # --- pictures and prompts ---------------------------------------------------------------------

    def latents(self, picture: np.ndarray) -> Tensor:
        """Of uint8 [H, W, 3]: [1, 4, h, w]."""
        return self.engine.runner.to_latents(self.engine.runner.tensor(picture[None]))

    def picture(self, latents: Tensor) -> np.ndarray:
        """uint8 [H, W, 3] of latents [1, 4, h, w]."""
        return np.asarray(self.engine.runner.host(self.engine.runner.to_pixels(latents)))[0]

    def features(self, *texts: str) -> PromptFeatures:
        """[texts, n, C], and SDXL's pooled features [texts, P]; the empty text is encoded like any
        other, as the engine does."""
        model = self.engine.model
        prompts = model.encode_prompts([model.tokenizer.encode(text) for text in texts])
        pooled = prompts.pooled
        return PromptFeatures(prompts.features.float(), None if pooled is None else pooled.float())

    def noise(self, seed: int, like: Tensor) -> Tensor:
        return torch.from_numpy(normal_noise(seed, like.shape)).to(like.device)

    # --- predictions and steps --------------------------------------------------------------------

    def eps(
        self, x: Tensor, t: int, features: PromptFeatures, edit: EditStep | None = None
    ) -> Tensor:
        """Predicted noise of rows [B, 4 or 8, h, w] for their prompts [B, n, C], or for one."""
        self.calls += 1
        times = torch.full((len(x),), float(t), device=x.device)
        tokens = features.tokens.expand(len(x), -1, -1)
        return self.unet(x, times, tokens, edit=edit, added=self._added(features, len(x))).eps

    def _added(self, features: PromptFeatures, rows: int) -> AddedConditions | None:
        """What SDXL's UNet takes besides: pooled features, and the size it was trained at."""
        if not self.unet.addition_channels:
            return None
        if features.pooled is None:
            raise BundleError(
                f"{self.engine.bundle.path}: its text encoder has no pooled features, which a UNet "
                "of SDXL needs"
            )
        sizes = torch.tensor([TIME_IDS], device=features.pooled.device)
        return AddedConditions(features.pooled.expand(rows, -1), sizes.expand(rows, -1))

    def guided(
        self,
        x: Tensor,
        t: int,
        features: PromptFeatures,
        against: PromptFeatures,
        w: float | Tensor,
        edit: EditStep | None = None,
    ) -> Tensor:
        """eps_c + w (eps_c - eps_a): guidance away from `against` (mostly the empty prompt), w for
        all rows or each."""
        conditional = self.eps(x, t, features, edit)
        if isinstance(w, float) and w == 0.0:
            return conditional
        weight = torch.as_tensor(w, device=x.device).reshape(-1, 1, 1, 1)
        return conditional + weight * (conditional - self.eps(x, t, against))

    def step(self, x: Tensor, eps: Tensor, t: int, s: int) -> Tensor:
        """DDIM from t to s, up or down."""
        rows = [torch.full((len(x),), level, device=x.device) for level in (t, s)]
        return self.tables.hop(x, eps, *rows)

    def noised(self, x: Tensor, noise: Tensor, t: int) -> Tensor:
        return self.tables.noised(x, noise, torch.full((len(x),), t, device=x.device))

    def a(self, t: int) -> float:
        return float(self.tables.a[t])

    def sigma(self, t: int) -> float:
        return float(self.tables.sigma[t])


def levels(steps: int = len(GRID)) -> list[int]:
    """0 and `steps` time steps, evenly from the 50 of DDIM's grid, ascending to the last."""
    chosen = (
        np.linspace(0, len(GRID) - 1, steps + 1).round().astype(int)[1:]
        if steps < len(GRID)
        else range(len(GRID))
    )
    return [0, *(GRID[i] for i in chosen)]


def down(times: list[int]) -> Iterator[tuple[int, int]]:
    """(t, s) from the highest level to 0."""
    return ((t, s) for s, t in reversed(list(pairwise(times))))


def at_size(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return to_size(Image.fromarray(picture), size)[0]
