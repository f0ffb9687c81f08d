"""What a torch runner computes, stage by stage. A stage is a function of tensors, so that a runner
may wrap it: compile it, or replay it from a graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from csrc_triton.pixels import from_pixels, to_pixels
from icd_engine.networks.text_encoder import DualTextEncoder, PromptFeatures, TextEncoder
from icd_engine.networks.unet import UNet
from icd_engine.networks.vae import VAE
from icd_engine.runners.contract import Decoded
from icd_engine.runners.hops import Predict, decode_hops, encode_hops


class TorchNetworks(NamedTuple):
    """The networks of a model, on one device.

    decode_text_encoder: what the decode network's prompts go through where that is another one, by
    a style on the decode network alone.
    """

    text_encoder: TextEncoder | DualTextEncoder
    vae: VAE
    encode_network: UNet
    decode_network: UNet
    decode_text_encoder: TextEncoder | DualTextEncoder | None = None

    @property
    def text_encoders(self) -> nn.ModuleList:
        """All of them, as one network that moves between host and device."""
        return nn.ModuleList(
            own for own in (self.text_encoder, self.decode_text_encoder) if own is not None
        )

    @property
    def device(self) -> torch.device:
        return self.decode_network.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.decode_network.conv_in.weight.dtype


class PictureStages:
    """The stages of a VAE, in its dtype."""

    def __init__(self, vae: VAE):
        self.vae = vae

    def to_moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return with_finite(self.vae.moments(from_pixels(pixels, self.vae.dtype)).float())

    def to_image(self, latents: Tensor) -> Tensor:
        return self.vae.to_image(latents.to(self.vae.dtype)).float()

    def to_pixels(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return pixels_of(self.vae.to_image(latents.to(self.vae.dtype)))


def pixels_of(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures [B, 3, H, W] -> [B, H, W, 3] uint8, and whether all values were finite."""
    return to_pixels(pictures), pictures.isfinite().all()


def with_finite(values: Tensor) -> tuple[Tensor, Tensor]:
    """The values, and whether all are finite."""
    return values, values.isfinite().all()


class Stages(NamedTuple):
    """All that a runner computes on its device."""

    prompt_features: Callable[[Tensor], PromptFeatures]  # token ids [1, n]
    # [B, H, W, 3] uint8 -> [B, 8, h, w] float32, and whether all values are finite
    to_moments: Callable[[Tensor], tuple[Tensor, Tensor]]
    to_image: Callable[[Tensor], Tensor]  # scaled latents -> [B, 3, H, W] float32
    to_pixels: Callable[[Tensor], tuple[Tensor, Tensor]]  # as `pixels_of`
    encode_pass: Predict  # one call of a network
    decode_pass: Predict
    decode_features: Callable[[Tensor], PromptFeatures]  # as prompt_features, for decode_pass
    encode: Callable[..., list[Tensor]] = encode_hops  # all hops, given the pass
    decode: Callable[..., Decoded] = decode_hops


def plain_stages(networks: TorchNetworks) -> Stages:
    """The networks called as they are."""
    pictures = PictureStages(networks.vae)

    def prompt_features(encoder: TextEncoder | DualTextEncoder, ids: Tensor) -> PromptFeatures:
        tokens, pooled = encoder.encode(ids)
        dtype = networks.dtype
        return PromptFeatures(tokens.to(dtype), None if pooled is None else pooled.to(dtype))

    return Stages(
        partial(prompt_features, networks.text_encoder),
        pictures.to_moments,
        pictures.to_image,
        pictures.to_pixels,
        networks.encode_network.predict,
        networks.decode_network.predict,
        partial(prompt_features, networks.decode_text_encoder or networks.text_encoder),
    )
