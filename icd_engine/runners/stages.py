"""What a torch runner computes, stage by stage, and what of it is kept. A stage is a function of
tensors, so that a runner may wrap it: compile it, or replay it from a graph."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from csrc_triton.pixels import from_pixels, to_pixels
from icd_engine.networks.text_encoder import DualTextEncoder, PromptFeatures, TextEncoder
from icd_engine.networks.unet import UNet
from icd_engine.networks.vae import VAE
from icd_engine.runners.contract import Decoded
from icd_engine.runners.hops import Predict, decode_hops, encode_hops
from icd_engine.runners.nested import leaves


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

    prompt_features: Callable[[Tensor], PromptFeatures]  # token ids [B, n]
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


class Kept:
    """The values of the last `most` keys that were asked for; make: several keys -> a value each.

    Thread-safe, and on CUDA for callers on any stream of the device: what one stream is still
    computing, another waits for; what it reads, it holds on to.
    """

    def __init__(self, most: int, make: Callable[[list[Any]], Sequence[Any]], device: torch.device):
        self.made = 0  # values, so far
        self._most = most
        self._make = make
        self._device = device
        self._lock = Lock()
        self._table: OrderedDict[Hashable, tuple[Any, Any, Any]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._table)

    def __call__(self, key: Hashable) -> Any:
        return self.each([key])[0]

    def each(self, keys: Sequence[Hashable]) -> list[Any]:
        """One for each; those that are not kept are made together."""
        with self._lock:
            found = {key: self._table[key] for key in keys if key in self._table}
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        if missing:
            values = self._make(missing)
            self.made += len(missing)
            stream = event = None
            if self._device.type == "cuda":
                stream = torch.cuda.current_stream(self._device)
                event = stream.record_event()
            for key, value in zip(missing, values, strict=True):
                found[key] = (value, stream, event)
        with self._lock:
            for key in keys:
                self._table[key] = found[key]
                self._table.move_to_end(key)
            while len(self._table) > self._most:
                self._table.popitem(last=False)
        return [self._readable(*found[key]) for key in keys]

    def clear(self) -> None:
        with self._lock:
            self._table.clear()

    def _readable(self, value: Any, made_on: Any, made: Any) -> Any:
        """The value, once the caller's stream may read it."""
        if made_on is None:
            return value
        caller = torch.cuda.current_stream(self._device)
        if caller != made_on:
            caller.wait_event(made)
            for tensor in leaves(value):
                if isinstance(tensor, Tensor):
                    tensor.record_stream(caller)
        return value
