"""What a torch runner computes, stage by stage. A stage is a function of tensors, so that a runner
may wrap it: compile it, or replay it from a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from csrc_triton.boundary_step import boundary_step
from csrc_triton.local_blend import local_blend
from csrc_triton.pixels import from_pixels, to_pixels
from icd_engine.editing.plan import EditStep
from icd_engine.networks.text_encoder import DualTextEncoder, PromptFeatures, TextEncoder
from icd_engine.networks.unet import UNet, UNetOutput
from icd_engine.networks.vae import VAE
from icd_engine.runners.contract import Blend, Decoded, SourceBranch, StepCallback
from icd_engine.sampling.schedule import Hop
from icd_engine.sampling.trajectory import run_trajectory


class TorchNetworks(NamedTuple):
    """The networks of a model, on one device."""

    text_encoder: TextEncoder | DualTextEncoder
    vae: VAE
    encode_network: UNet
    decode_network: UNet

    @property
    def device(self) -> torch.device:
        return self.decode_network.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.decode_network.conv_in.weight.dtype


class DecodeTensors(NamedTuple):
    """DecodeInputs once everything that depends on prompts, time steps and guidance alone is looked
    up."""

    latents: Tensor  # [R, 4, h, w]
    # [1], or [K] where prompts change by hop, of [R, n, D]: UNet.prompt_values
    prompt: list[Tensor]
    shifts: list[Tensor]  # [K] of [R, D']: UNet.time_shifts
    edits: Sequence[EditStep] | None
    blend: Blend | None
    source: SourceBranch | None


Predict = Callable[..., UNetOutput]  # UNet.predict
# second(k, hop, x) -> eps for the empty prompt and w [R], of a network that is not
# guidance-distilled; None on unguided hops
SecondPrediction = Callable[[int, Hop, Tensor], tuple[Tensor, Tensor] | None]


def encode_hops(
    predict: Predict,
    latents: Tensor,
    prompt: Tensor,
    shifts: Sequence[Tensor],
    hops: Sequence[Hop],
    callback: StepCallback | None = None,
) -> Tensor:
    """Latents [B, 4, h, w] float32 up the hops, unguided; prompt [B, n, D], shifts [K] of
    [B, D']."""

    def step(k: int, hop: Hop, x: Tensor) -> Tensor:
        out = _predicted(predict, x, shifts[k], prompt, None, None, False)
        return boundary_step(x, out.eps, *_constants(hop, x))

    return run_trajectory(latents, hops, step, callback)


def decode_hops(
    predict: Predict,
    inputs: DecodeTensors,
    hops: Sequence[Hop],
    keep: bool,
    callback: StepCallback | None = None,
    second: SecondPrediction | None = None,
) -> Decoded:
    """All rows down the hops, with local blend after each; `keep` hands the source branch back."""
    targets = 0 if inputs.edits is None else len(inputs.edits[0].source_row)
    sources = len(inputs.latents) - targets
    kept = SourceBranch([], [])
    masks = []
    maps = None

    def step(k: int, hop: Hop, x: Tensor) -> Tensor:
        nonlocal maps
        edit = None if inputs.edits is None else inputs.edits[k]
        source = None if inputs.source is None else inputs.source.features[k]
        prompt = inputs.prompt[k if len(inputs.prompt) > 1 else 0]
        out = _predicted(predict, x, inputs.shifts[k], prompt, edit, source, keep)
        unconditional = None if second is None else second(k, hop, x)
        x = boundary_step(x, out.eps, *_constants(hop, x), *(unconditional or ()))
        if keep:
            kept.latents.append(x[:sources])
            kept.features.append(out.kept or [])
        if inputs.blend is None:
            return x
        if out.word_maps is not None:
            maps = out.word_maps if maps is None else maps + out.word_maps
        x, mask = _blended(x, maps, inputs.blend, inputs.source and inputs.source.latents[k])
        masks.append(mask)
        return x

    latents = run_trajectory(inputs.latents, hops, step, callback)
    return Decoded(latents, torch.stack(masks) if masks else None, kept if keep else None)


def _predicted(predict: Predict, x: Tensor, shifts: Tensor, *others: object) -> UNetOutput:
    """One call of the network, in the dtype of its tables: latents stay float32 between calls."""
    return predict(x.to(shifts.dtype), shifts, *others)


def _blended(
    x: Tensor, maps: Tensor | None, blend: Blend, source_latents: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Local blend by the word maps of the hops so far [2, T, h, w], None where no level has any."""
    if maps is None:
        maps = x.new_zeros(2, len(blend.active), 1, 1)
    source_maps, target_maps = maps
    return local_blend(
        x,
        source_maps,
        target_maps,
        blend.source_row,
        use_blend=blend.active,
        user_mask=blend.user_mask,
        source_latents=source_latents,
    )


def _constants(hop: Hop, x: Tensor) -> tuple[Tensor, Tensor]:
    """A and B of a hop for every row: [rows] float32 each."""
    return x.new_full((len(x),), hop.A), x.new_full((len(x),), hop.B)


class PictureStages:
    """The stages of a VAE, in its dtype."""

    def __init__(self, vae: VAE):
        self.vae = vae

    def to_moments(self, pixels: Tensor) -> Tensor:
        return self.vae.moments(from_pixels(pixels, self.vae.dtype)).float()

    def to_image(self, latents: Tensor) -> Tensor:
        return self.vae.to_image(latents.to(self.vae.dtype)).float()

    def to_pixels(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return pixels_of(self.vae.to_image(latents.to(self.vae.dtype)))


def pixels_of(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures [B, 3, H, W] -> [B, H, W, 3] uint8, and whether all values were finite."""
    return to_pixels(pictures), pictures.isfinite().all()


class Stages(NamedTuple):
    """All that a runner computes on its device."""

    prompt_features: Callable[[Tensor], PromptFeatures]  # token ids [1, n]
    to_moments: Callable[[Tensor], Tensor]  # [B, H, W, 3] uint8 -> [B, 8, h, w] float32
    to_image: Callable[[Tensor], Tensor]  # scaled latents -> [B, 3, H, W] float32
    to_pixels: Callable[[Tensor], tuple[Tensor, Tensor]]  # as `pixels_of`
    encode_pass: Predict  # one call of a network
    decode_pass: Predict
    encode: Callable[..., Tensor] = encode_hops  # all hops, given the pass
    decode: Callable[..., Decoded] = decode_hops


def plain_stages(networks: TorchNetworks) -> Stages:
    """The networks called as they are."""
    pictures = PictureStages(networks.vae)

    def prompt_features(ids: Tensor) -> PromptFeatures:
        tokens, pooled = networks.text_encoder.encode(ids)
        dtype = networks.dtype
        return PromptFeatures(tokens.to(dtype), None if pooled is None else pooled.to(dtype))

    return Stages(
        prompt_features,
        pictures.to_moments,
        pictures.to_image,
        pictures.to_pixels,
        networks.encode_network.predict,
        networks.decode_network.predict,
    )
