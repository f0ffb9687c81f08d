"""The eager runner: the networks called as they are.

It defines what every other runner must answer; they wrap its stages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import starmap

import numpy as np
import torch
from torch import Tensor

from icd_engine.bundles.bundle import Bundle
from icd_engine.bundles.styles import UsedStyle
from icd_engine.errors import RunnerError
from icd_engine.networks.text_encoder import DualTextEncoder, PromptFeatures, TextEncoder
from icd_engine.networks.unet import AddedConditions, UNet
from icd_engine.networks.vae import VAE
from icd_engine.placement import PLAIN, Placement
from icd_engine.runners import captures
from icd_engine.runners.contract import TIME_IDS, Decoded, DecodeInputs, Prompts, StepCallback
from icd_engine.runners.hops import DecodeTensors, Opening, SecondPrediction
from icd_engine.runners.memory import Residence
from icd_engine.runners.pictures import PictureCoder
from icd_engine.runners.stages import Kept, Stages, TorchNetworks, plain_stages
from icd_engine.sampling.guidance import guidance_embedding
from icd_engine.sampling.schedule import Hop

# How many of each are kept for reuse. One takes, in SD1.5 and bfloat16: 118 kB, 4 MB, 40 kB.
KEPT_PROMPTS = 256
KEPT_PROMPT_VALUES = 32
KEPT_TIME_SHIFTS = 512


class EagerRunner:
    """Runs on the device and in the dtype its networks have; latents stay float32 between calls."""

    name = "eager"
    gives_torch = True
    warms_up = False
    reference = True
    prompts_a_pass = 1  # of the text encoder, always: fewer are filled up

    def __init__(self, networks: TorchNetworks, placement: Placement = PLAIN):
        self.networks = networks
        self._encoders = networks.text_encoders
        self.device = networks.device
        self.dtype = networks.dtype
        residence = Residence(self.device, self._encoders, self.vae) if placement.offload else None
        self._resident = residence.of if residence else lambda network: nullcontext()
        self.stages = self._make_stages(networks)
        self.pictures = PictureCoder(self.vae, self.stages, placement.vae_tiling, self._resident)
        # One (network, prompt or t and w) at a time, and as many prompts as ever: what is kept cannot
        # depend on the batch it first came in.
        self._features, self._decode_features = (
            Kept(KEPT_PROMPTS, partial(self._prompt_features, decode), self.device)
            for decode in (False, True)
        )
        self._values = self._kept(KEPT_PROMPT_VALUES, self._prompt_values)
        self._shifts = self._kept(KEPT_TIME_SHIFTS, self._time_shifts)

    def _kept(self, most: int, compute: Callable[..., Tensor]) -> Kept:
        return Kept(most, lambda keys: list(starmap(compute, keys)), self.device)

    def _make_stages(self, networks: TorchNetworks) -> Stages:
        """What other runners wrap."""
        return plain_stages(networks)

    def restyle(
        self,
        bundle: Bundle,
        before: Sequence[UsedStyle],
        after: Sequence[UsedStyle],
        ids: Mapping[str, int],
    ) -> None:
        """Nothing that was computed with the old weights is kept, and compiled programs, of which
        weights may be constants, are made anew: see `contract.Restyles`."""
        from icd_engine.runners.styled import restyled

        self.networks = restyled(self.networks, bundle, before, after, ids)
        self._encoders = self.networks.text_encoders
        self.free_memory()
        self.stages = self._make_stages(self.networks)

    @property
    def text_encoder(self) -> TextEncoder | DualTextEncoder:
        return self.networks.text_encoder

    @property
    def vae(self) -> VAE:
        return self.networks.vae

    @property
    def encode_network(self) -> UNet:
        return self.networks.encode_network

    @property
    def decode_network(self) -> UNet:
        return self.networks.decode_network

    def tensor(self, values: np.ndarray) -> Tensor:
        own = torch.from_numpy(values)
        if self.device.type == "cuda":  # else the copy would wait for all that runs there
            own = own.pin_memory()
        return own.to(self.device, non_blocking=True)

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(tensors))

    def host(self, tensor: Tensor) -> Tensor:
        return tensor.cpu().clone()

    def as_torch(self, values: Tensor) -> Tensor:
        return values

    def free_memory(self) -> None:
        for kept in (self._features, self._decode_features, self._values, self._shifts):
            kept.clear()
        if self.device.type == "cuda":
            captures.hand_back_memory()

    @torch.no_grad()
    def encode_prompts(self, ids: Sequence[Sequence[int]]) -> Prompts:
        keys = tuple(tuple(row) for row in ids)
        tokens, pooled = zip(*self._features.each(keys), strict=True)
        return Prompts(keys, _rows(tokens), None if pooled[0] is None else _rows(pooled))

    @torch.no_grad()
    def to_latents(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.pictures.to_latents(pixels.to(self.device), noise)

    @torch.no_grad()
    def to_image(self, latents: Tensor) -> Tensor:
        return self.pictures.to_image(latents.to(self.device))

    @torch.no_grad()
    def to_pixels(self, latents: Tensor) -> Tensor:
        return self.pictures.to_pixels(latents.to(self.device))

    @torch.no_grad()
    def encode(
        self, latents: Tensor, prompts: Prompts, hops: Sequence[Hop], callback: StepCallback | None
    ) -> list[Tensor]:
        network = self.encode_network
        values = _rows(self._values((network, ids)) for ids in prompts.ids)
        unguided = [0.0] * len(prompts)
        shifts = [self._row_shifts(network, hop.t, unguided, prompts.ids) for hop in hops]
        latents = latents.to(self.device, torch.float32)
        return self.stages.encode(self.stages.encode_pass, latents, values, shifts, hops, callback)

    @torch.no_grad()
    def decode(
        self, inputs: DecodeInputs, hops: Sequence[Hop], callback: StepCallback | None
    ) -> Decoded:
        distilled = self.decode_network.guidance_channels
        second = None if distilled else self._second_prediction(inputs)
        tensors = self._decode_tensors(inputs, hops)
        hops = hops[:1] if inputs.only_source else hops
        return self.stages.decode(
            self.stages.decode_pass, tensors, hops, inputs.keep, callback, second
        )

    # --- what is computed once and kept -----------------------------------------------------------

    def _decode_tensors(self, inputs: DecodeInputs, hops: Sequence[Hop]) -> DecodeTensors:
        network = self.decode_network
        targets = inputs.targets(len(hops))
        sources = inputs.sources
        values = [
            _rows(self._values((network, ids)) for ids in prompts.ids)
            for prompts in inputs.hop_prompts or [inputs.prompts]
        ]
        if inputs.parents is not None:
            whole = values if len(values) > 1 else values * len(hops)
            values = [rows[: sources + count] for rows, count in zip(whole, targets, strict=True)]
        latents = inputs.latents.to(self.device, torch.float32)
        opening = None
        first = 0
        if inputs.source is not None or inputs.ahead:  # target rows alone
            first = sources
        if inputs.ahead:
            opening = self._opening(inputs, hops, latents[:sources])
            latents = latents[sources:]
        shifts = []
        for hop, row, count in zip(hops, inputs.guidance, targets, strict=True):
            ids = inputs.prompts.ids[first : sources + count]
            shifts.append(self._row_shifts(network, hop.t, row[-len(ids) :], ids))
        return DecodeTensors(
            latents,
            values,
            shifts,
            inputs.edits,
            inputs.blend,
            inputs.source,
            inputs.anchor,
            opening,
            inputs.parents,
        )

    def _opening(self, inputs: DecodeInputs, hops: Sequence[Hop], start: Tensor) -> Opening:
        """The source rows of all hops, from their latents before the first."""
        sources = len(start)
        ids = inputs.prompts.ids[: sources + inputs.targets(len(hops))[0]]
        network = self.decode_network
        unguided = [0.0] * sources
        shifts = [self._row_shifts(network, hop.t, unguided, ids[:sources]) for hop in hops]
        guidance = inputs.guidance[0][sources:]
        shifts.append(self._row_shifts(network, hops[0].t, guidance, ids[sources:]))
        return Opening(start, shifts, tuple(hops))

    def _prompt_features(
        self, decode: bool, prompts: Sequence[tuple[int, ...]]
    ) -> list[PromptFeatures]:
        """decode: by the decode network's own text encoder."""
        stage = self.stages.decode_features if decode else self.stages.prompt_features
        made = []
        for first in range(0, len(prompts), self.prompts_a_pass):
            own = list(prompts[first : first + self.prompts_a_pass])
            filled = own + own[:1] * (self.prompts_a_pass - len(own))
            with self._resident(self._encoders):
                tokens, pooled = stage(self.tensor(np.array(filled, dtype=np.int64)))
            for row in range(len(own)):
                its = slice(row, row + 1)
                made.append(PromptFeatures(tokens[its], None if pooled is None else pooled[its]))
        return made

    def _features_for(self, network: UNet, ids: tuple[int, ...]) -> PromptFeatures:
        own = self.networks.decode_text_encoder is not None and network is self.decode_network
        return (self._decode_features if own else self._features)(ids)

    def _prompt_values(self, network: UNet, ids: tuple[int, ...]) -> Tensor:
        return network.prompt_values(self._features_for(network, ids).tokens)

    def _row_shifts(
        self, network: UNet, t: int, w: Sequence[float], ids: Sequence[tuple[int, ...]]
    ) -> Tensor:
        """UNet.time_shifts of rows at t with these guidance scales and prompts, [rows, D]."""
        prompts = ids if network.addition_channels else [None] * len(ids)
        return _rows(self._shifts((network, t, *row)) for row in zip(w, prompts, strict=True))

    def _time_shifts(self, network: UNet, t: int, w: float, ids: tuple[int, ...] | None) -> Tensor:
        """UNet.time_shifts of one row [1, D]; ids: the prompt's, where the network takes its pooled
        features too (SDXL), else None."""
        guidance = None
        added = None
        if network.guidance_channels is not None:
            guidance = self.tensor(guidance_embedding([w], network.guidance_channels))
        if ids is not None:
            pooled = self._features_for(network, ids).pooled
            assert pooled is not None  # encoders and networks of one family: see loading
            added = AddedConditions(pooled, self.tensor(np.array([TIME_IDS], dtype=np.float32)))
        return network.time_shifts(torch.full((1,), float(t), device=self.device), guidance, added)

    def _second_prediction(self, inputs: DecodeInputs) -> SecondPrediction:
        """For networks that are not guidance-distilled: run on the hops and for the rows that are
        guided, alone."""
        network = self.decode_network
        empty = inputs.empty_prompt

        def second(k: int, hop: Hop, x: Tensor) -> tuple[Tensor, Tensor] | None:
            guidance = inputs.guidance[k][-len(x) :]
            rows = [row for row, w in enumerate(guidance) if w]
            if not rows:
                return None
            if empty is None:
                raise RunnerError(
                    "a network that is not guidance-distilled needs the empty prompt for guided rows"
                )
            ids = empty.ids[0]
            prompt = self._values((network, ids)).expand(len(rows), -1, -1)
            shifts = self._row_shifts(network, hop.t, [0.0] * len(rows), [ids] * len(rows))
            eps = torch.zeros_like(x)
            eps[rows] = self.stages.decode_pass(x[rows].to(self.dtype), shifts, prompt).eps.float()
            return eps, torch.tensor(guidance, device=self.device)

        return second


def _rows(rows: Iterable[Tensor]) -> Tensor:
    """What is kept for each row as one tensor; for a single row itself, which nobody writes into."""
    first, *others = rows
    return torch.cat([first, *others]) if others else first
