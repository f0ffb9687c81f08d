"""Pictures <-> latents by the VAE: whole or in tiles, and once more in float32 where half precision
overflows."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from threading import Lock

import torch
from torch import Tensor, nn

from icd_engine.errors import ImageError
from icd_engine.networks.resizing import keep_filters
from icd_engine.networks.vae import VAE
from icd_engine.runners.memory import in_tiles
from icd_engine.runners.stages import PictureStages, Stages, pixels_of, with_finite

AUTO_TILING = 4.0  # tiles are used for more than so many times the pixels of one tile
# Inside, the network is on the device
Resident = Callable[[nn.Module], AbstractContextManager[None]]


class PictureCoder:
    """What every torch runner does with its VAE's stages.

    What the VAE computes in half precision and is not finite, it computes again in float32:
    `retries` counts these calls.
    """

    def __init__(self, vae: VAE, stages: Stages, tiling: bool | None, resident: Resident):
        self.vae = vae
        self.retries = 0
        self._stages = stages
        self._tiling = tiling
        self._resident = resident
        self._lock = Lock()
        self._exact: PictureStages | None = None

    def to_latents(self, pixels: Tensor, noise: Tensor | None) -> Tensor:
        return self.vae.sample(self._finite(self._moments, pixels), noise)

    def to_image(self, latents: Tensor) -> Tensor:
        return self._finite(self._image, latents)

    def to_pixels(self, latents: Tensor) -> Tensor:
        if not self._wants_tiles(latents, self.vae.sample_size // self.vae.downscale):
            with self._resident(self.vae):
                pixels, finite = self._stages.to_pixels(latents)
            if finite or self.vae.dtype == torch.float32:
                return checked(pixels, finite)
        return checked(*pixels_of(self.to_image(latents)))

    # --- whole or in tiles, in float32 where it must be -------------------------------------------

    def _moments(self, stages: Stages | PictureStages, pixels: Tensor) -> tuple[Tensor, Tensor]:
        def encode(channels_first: Tensor) -> Tensor:
            return stages.to_moments(channels_first.movedim(1, -1).contiguous())[0]

        tile = self.vae.sample_size
        channels_first = pixels.movedim(-1, 1)
        with self._resident(self.vae):
            if not self._wants_tiles(channels_first, tile):
                return stages.to_moments(pixels)
            return with_finite(in_tiles(encode, channels_first, tile, (1, self.vae.downscale)))

    def _image(self, stages: Stages | PictureStages, latents: Tensor) -> tuple[Tensor, Tensor]:
        tile = self.vae.sample_size // self.vae.downscale
        with self._resident(self.vae):
            if self._wants_tiles(latents, tile):
                image = in_tiles(stages.to_image, latents, tile, (self.vae.downscale, 1))
            else:
                image = stages.to_image(latents)
        return with_finite(image)

    def _wants_tiles(self, x: Tensor, tile: int) -> bool:
        return wants_tiles(x.shape[-2:], tile, self._tiling)

    def _finite(self, compute: Callable[..., tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
        """compute(stages, x), by the VAE in float32 where the half-precision one gave NaN or
        infinity; it says whether all values are finite.

        ImageError if both do.
        """
        result, known = compute(self._stages, x)
        finite = bool(known)  # waits for the device, once
        if self.vae.dtype != torch.float32 and not finite:
            with self._lock:
                self.retries += 1
                if self._exact is None:
                    warnings.warn(
                        "the VAE overflowed in half precision: repeated in float32", stacklevel=5
                    )
                    exact = copy.deepcopy(self.vae).to(x.device, torch.float32)
                    keep_filters(exact)
                    self._exact = PictureStages(exact)
            result, finite = compute(self._exact, x)
        return checked(result, finite)


def wants_tiles(size: Sequence[int], tile: int, tiling: bool | None) -> bool:
    """Whether a picture of `size` = (height, width), in the units of `tile`, passes the VAE in
    tiles."""
    height, width = size
    larger = height > tile or width > tile
    return larger and (height * width > AUTO_TILING * tile * tile if tiling is None else tiling)


def checked(values: Tensor, finite: Tensor | bool) -> Tensor:
    """The values. ImageError unless the pictures they were made of were finite."""
    if not finite:
        raise ImageError("the picture holds NaN or infinite values")
    return values
