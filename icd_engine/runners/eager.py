"""The eager runner: the networks called as they are.

It defines what every other runner must answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from csrc_triton.boundary_step import boundary_step
from csrc_triton.local_blend import local_blend
from icd_engine.editing.plan import EditStep
from icd_engine.errors import RunnerError
from icd_engine.networks.text_encoder import DualTextEncoder, PromptFeatures, TextEncoder
from icd_engine.networks.unet import AddedConditions, UNet, UNetOutput
from icd_engine.networks.vae import VAE
from icd_engine.placement import PLAIN, Placement
from icd_engine.runners.contract import (
    TIME_IDS,
    Blend,
    Decoded,
    DecodeInputs,
    Prompts,
    SourceBranch,
    StepCallback,
)
from icd_engine.runners.pictures import PictureRunner
from icd_engine.sampling.guidance import guidance_embedding
from icd_engine.sampling.schedule import Hop
from icd_engine.sampling.trajectory import run_trajectory

# What is kept for reuse, by number of entries; in SD1.5 and bfloat16 59 kB, 4 MB and 35 kB each.
KEPT_PROMPTS = 256
KEPT_PROMPT_VALUES = 32
KEPT_TIME_SHIFTS = 512


class Networks(NamedTuple):
    """What a torch runner executes; they are on its device."""

    text_encoder: TextEncoder | DualTextEncoder
    vae: VAE
    forward: UNet
    reverse: UNet

    @property
    def device(self) -> torch.device:
        return self.reverse.conv_in.weight.device


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


# second(k, hop, x) -> what a two-pass model predicts for the empty prompt, and w [R]; None on
# unguided hops
SecondPrediction = Callable[[int, Hop, Tensor], tuple[Tensor, Tensor] | None]


class EagerRunner(PictureRunner):
    """Runs on the device and in the dtype its networks have; latents stay float32 between calls."""

    name = "eager"
    torch_tensors = True
    warms_up = False
    reference = True

    def __init__(self, networks: Networks, placement: Placement = PLAIN):
        self.text_encoder, vae, self.forward, self.reverse = networks
        super().__init__(vae, self.text_encoder, networks.device, placement)
        self.dtype = self.reverse.conv_in.weight.dtype
        # One prompt, one (network, t, w) at a time: what is kept cannot depend on the batch it
        # first came in.
        self._features = lru_cache(KEPT_PROMPTS)(self._encode_prompt)
        self._values = lru_cache(KEPT_PROMPT_VALUES)(self._prompt_values)
        self._shifts = lru_cache(KEPT_TIME_SHIFTS)(self._time_shifts)

    def tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.device)

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(tensors))

    def host(self, tensor: Tensor) -> Tensor:
        return tensor.cpu().clone()

    def free_memory(self) -> None:
        for kept in (self._features, self._values, self._shifts):
            kept.cache_clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def encode_prompts(self, ids: Sequence[Sequence[int]]) -> Prompts:
        keys = tuple(tuple(row) for row in ids)
        tokens, pooled = zip(*(self._features(key) for key in keys), strict=True)
        return Prompts(keys, torch.cat(tokens), None if pooled[0] is None else torch.cat(pooled))

    @torch.no_grad()
    def encode(
        self, latents: Tensor, prompts: Prompts, hops: Sequence[Hop], callback: StepCallback | None
    ) -> Tensor:
        values, shifts = self._encode_tables(prompts, hops)
        return self._encode(latents.to(self.device, torch.float32), values, shifts, hops, callback)

    @torch.no_grad()
    def decode(
        self, inputs: DecodeInputs, hops: Sequence[Hop], callback: StepCallback | None
    ) -> Decoded:
        second = None if self.reverse.guidance_channels else self._second_prediction(inputs)
        return self._decode(self._tensors(inputs, hops), hops, inputs.keep, callback, second)

    # --- on tensors of the device alone -----------------------------------------------------------

    def _predict(
        self,
        unet: UNet,
        latents: Tensor,
        shifts: Tensor,
        prompt: Tensor,
        edit: EditStep | None = None,
        source: Sequence[Tensor] | None = None,
        keep: bool = False,
    ) -> UNetOutput:
        return unet.predict(latents.to(self.dtype), shifts, prompt, edit, source, keep)

    def _encode(
        self,
        latents: Tensor,
        prompt: Tensor,
        shifts: Sequence[Tensor],
        hops: Sequence[Hop],
        callback: StepCallback | None = None,
    ) -> Tensor:
        def step(k: int, hop: Hop, x: Tensor) -> Tensor:
            return boundary_step(
                x, self._predict(self.forward, x, shifts[k], prompt).eps, *_constants(hop, x)
            )

        return run_trajectory(latents, hops, step, callback)

    def _decode(
        self,
        inputs: DecodeTensors,
        hops: Sequence[Hop],
        keep: bool,
        callback: StepCallback | None = None,
        second: SecondPrediction | None = None,
    ) -> Decoded:
        sources = len(inputs.latents) - (
            0 if inputs.edits is None else len(inputs.edits[0].source_row)
        )
        kept = SourceBranch([], [])
        masks = []
        maps = None

        def step(k: int, hop: Hop, x: Tensor) -> Tensor:
            nonlocal maps
            edit = None if inputs.edits is None else inputs.edits[k]
            source = None if inputs.source is None else inputs.source.features[k]
            prompt = inputs.prompt[k if len(inputs.prompt) > 1 else 0]
            out = self._predict(self.reverse, x, inputs.shifts[k], prompt, edit, source, keep)
            unconditional = None if second is None else second(k, hop, x)
            x = boundary_step(x, out.eps, *_constants(hop, x), *(unconditional or ()))
            if keep:
                kept.latents.append(x[:sources])
                kept.features.append(out.kept or [])
            if inputs.blend is None:
                return x
            if out.word_maps is not None:
                maps = out.word_maps if maps is None else maps + out.word_maps
            source_maps, target_maps = (
                x.new_zeros(2, len(inputs.blend.active), 1, 1) if maps is None else maps
            )
            x, mask = local_blend(
                x,
                source_maps,
                target_maps,
                inputs.blend.source_row,
                use_blend=inputs.blend.active,
                user_mask=inputs.blend.user_mask,
                source_latents=None if inputs.source is None else inputs.source.latents[k],
            )
            masks.append(mask)
            return x

        latents = run_trajectory(inputs.latents, hops, step, callback)
        return Decoded(latents, torch.stack(masks) if masks else None, kept if keep else None)

    # --- what is computed once and kept -----------------------------------------------------------

    def _tensors(self, inputs: DecodeInputs, hops: Sequence[Hop]) -> DecodeTensors:
        values = [
            torch.cat([self._values(True, ids) for ids in prompts.ids])
            for prompts in inputs.hop_prompts or [inputs.prompts]
        ]
        # Without its source rows, a batch's own rows are the last.
        ids = inputs.prompts.ids[-len(inputs.latents) :]
        shifts = [
            self._row_shifts(True, hop.t, row, ids)
            for hop, row in zip(hops, inputs.guidance, strict=True)
        ]
        latents = inputs.latents.to(self.device, torch.float32)
        return DecodeTensors(latents, values, shifts, inputs.edits, inputs.blend, inputs.source)

    def _encode_tables(self, prompts: Prompts, hops: Sequence[Hop]) -> tuple[Tensor, list[Tensor]]:
        values = torch.cat([self._values(False, ids) for ids in prompts.ids])
        return values, [
            self._row_shifts(False, hop.t, [0.0] * len(prompts), prompts.ids) for hop in hops
        ]

    def _encode_prompt(self, ids: tuple[int, ...]) -> PromptFeatures:
        with self._resident(self.text_encoder):
            return self._prompt_features(torch.tensor([ids], device=self.device))

    def _prompt_features(self, ids: Tensor) -> PromptFeatures:
        tokens, pooled = self.text_encoder.encode(ids)
        return PromptFeatures(
            tokens.to(self.dtype), None if pooled is None else pooled.to(self.dtype)
        )

    def _prompt_values(self, reverse: bool, ids: tuple[int, ...]) -> Tensor:
        return (self.reverse if reverse else self.forward).prompt_values(self._features(ids).tokens)

    def _row_shifts(
        self, reverse: bool, t: int, w: Sequence[float], ids: Sequence[tuple[int, ...]]
    ) -> Tensor:
        """UNet.time_shifts of rows at t with these guidance scales and prompts, [rows, D]."""
        unet = self.reverse if reverse else self.forward
        prompts = ids if unet.addition_channels else [None] * len(ids)
        return torch.cat([self._shifts(reverse, t, *row) for row in zip(w, prompts, strict=True)])

    def _time_shifts(self, reverse: bool, t: int, w: float, ids: tuple[int, ...] | None) -> Tensor:
        """Of one row; `ids` where the network takes the prompt's pooled features too (SDXL)."""
        unet = self.reverse if reverse else self.forward
        guidance = None
        added = None
        if unet.guidance_channels is not None:
            guidance = torch.from_numpy(guidance_embedding([w], unet.guidance_channels)).to(
                self.device
            )
        if ids is not None:
            pooled = self._features(ids).pooled
            assert pooled is not None  # encoders and networks of one family: see loading
            added = AddedConditions(pooled, torch.tensor([TIME_IDS], device=self.device))
        return unet.time_shifts(torch.full((1,), float(t), device=self.device), guidance, added)

    def _second_prediction(self, inputs: DecodeInputs) -> SecondPrediction:
        """For networks that are not guidance-distilled: run on the hops and for the rows that are
        guided, alone."""
        empty = inputs.empty_prompt

        def second(k: int, hop: Hop, x: Tensor) -> tuple[Tensor, Tensor] | None:
            rows = [row for row, w in enumerate(inputs.guidance[k]) if w]
            if not rows:
                return None
            if empty is None:
                raise RunnerError(
                    "a network that is not guidance-distilled needs the empty prompt for guided rows"
                )
            prompt = self._values(True, empty.ids[0]).expand(len(rows), -1, -1)
            shifts = self._row_shifts(True, hop.t, [0.0] * len(rows), [empty.ids[0]] * len(rows))
            eps = torch.zeros_like(x)
            eps[rows] = self._predict(self.reverse, x[rows], shifts, prompt).eps.float()
            return eps, torch.tensor(inputs.guidance[k], device=self.device)

        return second


def _constants(hop: Hop, x: Tensor) -> tuple[Tensor, Tensor]:
    """A and B of a hop for every row: [rows] float32 each."""
    return x.new_full((len(x),), hop.A), x.new_full((len(x),), hop.B)
