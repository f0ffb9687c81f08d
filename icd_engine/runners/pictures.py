"""Pictures <-> latents by the VAE: whole or in tiles, and once more in float32 where half precision
overflows."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from threading import Lock

import torch
from torch import Tensor

from csrc_triton.pixels import from_pixels, to_pixels
from icd_engine.errors import ImageError
from icd_engine.networks.text_encoder import DualTextEncoder, TextEncoder
from icd_engine.networks.vae import VAE
from icd_engine.placement import Placement
from icd_engine.runners.memory import Residence, in_tiles, wants_tiles


class PictureRunner:
    """The VAE's part of every torch runner. What it computes in half precision and is not finite,
    it computes again in
    float32: `vae_retries` counts these calls.
    """

    def __init__(
        self,
        vae: VAE,
        text_encoder: TextEncoder | DualTextEncoder,
        device: torch.device,
        placement: Placement,
    ):
        self.vae = vae
        self.device = device
        self.vae_dtype = vae.decoder.conv_in.weight.dtype
        self.vae_retries = 0
        self._tiling = placement.vae_tiling
        self._lock = Lock()
        self._exact = None
        residence = Residence(device, text_encoder, vae) if placement.offload else None
        self._resident = residence.of if residence else lambda network: nullcontext()

    @torch.no_grad()
    def to_latents(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.vae.sample(self._finite(self._moments, pixels.to(self.device)), noise)

    @torch.no_grad()
    def to_image(self, latents: Tensor) -> Tensor:
        return self._finite(self._image, latents.to(self.device))

    @torch.no_grad()
    def to_pixels(self, latents: Tensor) -> Tensor:
        latents = latents.to(self.device)
        if not wants_tiles(
            latents.shape[-2:], self.vae.sample_size // self.vae.downscale, self._tiling
        ):
            with self._resident(self.vae):
                pixels, finite = self._to_pixels(latents)
            if finite or self.vae_dtype == torch.float32:
                return checked(pixels, finite)
        return checked(*_pixels_of(self.to_image(latents)))

    # --- what compiled and graph runners replace --------------------------------------------------

    def _to_moments(self, pixels: Tensor) -> Tensor:
        return self.vae.moments(from_pixels(pixels, self.vae_dtype)).float()

    def _to_image(self, latents: Tensor) -> Tensor:
        return self.vae.to_image(latents.to(self.vae_dtype)).float()

    def _to_pixels(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return _pixels_of(self.vae.to_image(latents.to(self.vae_dtype)))

    # --- whole or in tiles, in float32 where it must be -------------------------------------------

    def _moments(self, pixels: Tensor, exact: VAE | None = None) -> Tensor:
        def encode(channels_first: Tensor) -> Tensor:
            tile = channels_first.movedim(1, -1).contiguous()
            return (
                exact.moments(from_pixels(tile, torch.float32)) if exact else self._to_moments(tile)
            )

        return self._by_tiles(
            encode, pixels.movedim(-1, 1), self.vae.sample_size, (1, self.vae.downscale)
        )

    def _image(self, latents: Tensor, exact: VAE | None = None) -> Tensor:
        tile = self.vae.sample_size // self.vae.downscale
        return self._by_tiles(
            exact.to_image if exact else self._to_image, latents, tile, (self.vae.downscale, 1)
        )

    def _by_tiles(
        self, function: Callable[[Tensor], Tensor], x: Tensor, tile: int, scale: tuple[int, int]
    ) -> Tensor:
        with self._resident(self.vae):
            if wants_tiles(x.shape[-2:], tile, self._tiling):
                return in_tiles(function, x, tile, scale)
            return function(x)

    def _finite(self, stage: Callable[..., Tensor], x: Tensor) -> Tensor:
        """stage(x), by the VAE in float32 where the half-precision one gave NaN or infinity.

        ImageError if both do.
        """
        result = stage(x)
        if self.vae_dtype != torch.float32 and not result.isfinite().all():
            with self._lock:
                self.vae_retries += 1
                if self._exact is None:
                    warnings.warn(
                        "the VAE overflowed in half precision: repeated in float32", stacklevel=4
                    )
                    self._exact = copy.deepcopy(self.vae).to(self.device, torch.float32)
            result = stage(x, self._exact)
        return checked(result, result.isfinite().all())


def checked(values: Tensor, finite: Tensor) -> Tensor:
    """The values. ImageError unless the pictures they were made of were finite."""
    if not finite:
        raise ImageError("the picture holds NaN or infinite values")
    return values


def _pixels_of(pictures: Tensor) -> tuple[Tensor, Tensor]:
    return to_pixels(pictures), pictures.isfinite().all()
