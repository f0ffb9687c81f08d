"""The distillations as losses of one batch: guidance into the network, both ways into few hops, the
whole cycle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from icd_engine.networks.text_encoder import PromptFeatures
from icd_engine.sampling.schedule import CHAIN, Hop, NoiseSchedule
from icd_engine.sampling.trajectory import run_trajectory
from training import losses
from training.base import Base
from training.latents import Latents
from training.loop import Part, device
from training.losses import Boundaries
from training.networks import Role, Students, predict

_GRID = f"{losses.GRID[0]}, {losses.GRID[1]}, ..., {losses.GRID[-1]}"


@dataclass(frozen=True)
class Chain:
    """The boundaries both networks hop between, ascending, as published: encoding ends where
    decoding starts."""

    encode_times: tuple[int, ...] = CHAIN
    decode_times: tuple[int, ...] = (*CHAIN[1:], losses.GRID[-1])

    def __post_init__(self) -> None:
        for times in (self.encode_times, self.decode_times):
            on_grid = all(
                t in losses.GRID or (t == 0 and times is self.encode_times) for t in times
            )
            if not times or list(times) != sorted(set(times)) or not on_grid:
                raise ValueError(
                    f"boundaries must ascend and lie on the grid {_GRID}, not {list(times)}"
                )
        if self.encode_times[-1] >= self.end:
            raise ValueError(
                f"encoding must end at {self.end}, where decoding starts: {list(self.encode_times)}"
            )

    @property
    def end(self) -> int:
        return self.decode_times[-1]


@dataclass(frozen=True)
class Guidance:
    """How w is drawn for a sample: from a list, or evenly up to its largest value; some are
    unguided besides.

    Ramps of dynamic guidance meet every w between; a list is what the published models were trained
    on.
    """

    scales: tuple[float, ...] = (0.0, 7.0, 11.0, 15.0, 19.0)
    even: bool = False
    unguided: float = 0.0

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) < 0:
            raise ValueError(f"scales must be at least 0 and not none, not {list(self.scales)}")

    def draw(self, rng: np.random.Generator, count: int) -> Tensor:
        """w [count] in code notation, float32 on the device."""
        w = rng.uniform(0, max(self.scales), count) if self.even else rng.choice(self.scales, count)
        w = np.where(rng.random(count) < self.unguided, 0.0, w)
        return torch.from_numpy(w.astype(np.float32)).to(device())


@dataclass(frozen=True)
class Preservation:
    """Weights of the two losses that make the pair invertible, and the share of a batch they are
    taken over.

    The paper's weights are 1.5. On a small model strong ones let the two networks collude: the
    round trip gains, the noise they meet at stops being noise (its deviation shrinks) and
    generation breaks.
    """

    forward: float = 1.5
    reverse: float = 1.5
    share: float = 1.0


class Sample(NamedTuple):
    """One batch: scaled latents [B, 4, h, w], their noise, and the prompts."""

    latents: Tensor
    noise: Tensor
    prompt: PromptFeatures

    def part(self, count: int) -> Sample:
        return Sample(self.latents[:count], self.noise[:count], some(self.prompt, count))


class Data(Protocol):
    """Where batches come from."""

    tables: Boundaries

    def draw(self, rng: np.random.Generator, count: int) -> Sample: ...

    def empty_prompts(self, count: int) -> PromptFeatures: ...


class CachedData:
    """Batches from the cache of latents; prompts go through the base's text encoders as they are
    drawn."""

    def __init__(self, base: Base, latents: Latents):
        self._base = base
        self._latents = latents
        self.tables = Boundaries(base.schedule, device())

    def draw(self, rng: np.random.Generator, count: int) -> Sample:
        latents, captions = self._latents.draw(rng, count)
        noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32)).to(
            latents.device
        )
        return Sample(
            latents * self._base.scaling_factor, noise, self._base.encode_prompts(captions)
        )

    def empty_prompts(self, count: int) -> PromptFeatures:
        return self._base.empty_prompts(count)


def some(prompt: PromptFeatures, count: int) -> PromptFeatures:
    """The first `count` rows."""
    return PromptFeatures(
        prompt.tokens[:count], None if prompt.pooled is None else prompt.pooled[:count]
    )


def joined(prompts: Sequence[PromptFeatures]) -> PromptFeatures:
    """Row after row."""
    pooled = [prompt.pooled for prompt in prompts if prompt.pooled is not None]
    return PromptFeatures(
        torch.cat([prompt.tokens for prompt in prompts]), torch.cat(pooled) if pooled else None
    )


def guidance_loss(
    student: UNet2DConditionModel,
    teacher: UNet2DConditionModel,
    data: Data,
    guidance: Guidance,
    precision: str,
    rng: np.random.Generator,
    count: int,
) -> Iterator[Part]:
    """The student's one pass against the teacher's two, at uniform time steps (Meng et al., arXiv
    2210.03142)."""
    sample = data.draw(rng, count)
    w = guidance.draw(rng, count)
    t = torch.from_numpy(rng.integers(1, data.tables.schedule.steps, count)).to(w.device)
    noised = data.tables.noised(sample.latents, sample.noise, t)
    with torch.no_grad():
        prompts = joined([sample.prompt, data.empty_prompts(count)])
        both = predict(
            teacher, torch.cat([noised] * 2), torch.cat([t] * 2), prompts, precision=precision
        )
        conditional, unconditional = both.chunk(2)
        target = losses.guided(conditional, unconditional, w)
    yield Part(
        "loss", (predict(student, noised, t, sample.prompt, w, precision) - target).square().mean()
    )


def icd_loss(
    networks: Students,
    data: Data,
    chain: Chain,
    guidance: Guidance,
    keep: Preservation,
    distance: losses.Distance,
    rng: np.random.Generator,
    count: int,
) -> Iterator[Part]:
    """Both consistency losses and both preservation losses, the terms of the paper's equation."""
    if chain.encode_times[0] < losses.GRID[0] or chain.encode_times[1:] != chain.decode_times[:-1]:
        raise ValueError(
            "both networks must hop between the same boundaries, and encoding start at 19 or above"
        )
    tables = data.tables
    sample = data.draw(rng, count)
    w = guidance.draw(rng, count)
    place = w.device

    def network(role: Role, prompt: PromptFeatures, w: Tensor | None = None) -> losses.Predict:
        return lambda x, t: networks.eps(role, x, t, prompt, w)

    t, t_next = (steps.to(place) for steps in losses.reverse_steps(rng, count, chain.end))
    yield Part(
        "reverse",
        losses.consistency_loss(
            network("reverse", sample.prompt, w),
            network("teacher", sample.prompt, w),
            tables,
            tables.noised(sample.latents, sample.noise, t),
            t,
            t_next,
            losses.decode_boundary(t_next, chain.decode_times[:-1]),
            distance,
        ),
    )
    t, t_next = (
        steps.to(place)
        for steps in losses.forward_steps(rng, count, chain.encode_times[0], chain.end)
    )
    yield Part(
        "forward",
        losses.consistency_loss(
            network("forward", sample.prompt),
            network("teacher", sample.prompt),
            tables,
            tables.noised(sample.latents, sample.noise, t),
            t,
            t_next,
            losses.encode_boundary(t_next, (*chain.encode_times[1:], chain.end)),
            distance,
        ),
    )

    count = max(1, int(count * keep.share))
    latents, noise, prompt = sample.part(count)
    up = network("forward", prompt)
    down = network("reverse", prompt)
    if keep.forward:
        # Down one segment and up again. The lowest segment ends at clean latents, from which no way
        # up starts.
        marks = torch.tensor(chain.decode_times, device=place)
        level = torch.from_numpy(rng.integers(1, len(marks), count)).to(place)
        high = marks[level]
        low = marks[level - 1]
        start = tables.noised(latents, noise, high)
        loss = losses.preservation_loss(up, down, tables, start, high, low, high, start, distance)
        yield Part("keep_forward", loss, keep.forward)
    if keep.reverse:
        # Up one segment and down again; from the first step (noised latents) the way down ends at
        # the clean ones.
        marks = torch.tensor((*chain.encode_times, chain.end), device=place)
        level = torch.from_numpy(rng.integers(0, len(marks) - 1, count)).to(place)
        low = marks[level]
        high = marks[level + 1]
        start = tables.noised(latents, noise, low)
        lowest = level == 0
        end = torch.where(lowest, 0, low)
        target = torch.where(lowest[:, None, None, None], latents, start)
        loss = losses.preservation_loss(down, up, tables, start, low, high, end, target, distance)
        yield Part("keep_reverse", loss, keep.reverse)


def encode(
    networks: Students, schedule: NoiseSchedule, chain: Chain, start: Tensor, prompt: PromptFeatures
) -> Tensor:
    """Latents at the first encode step -> noise, by the engine's own hops."""
    hops = schedule.encode_hops(chain.encode_times, chain.end)
    return run_trajectory(
        start, hops, lambda k, hop, x: _hop(networks, "forward", hop, x, prompt, 0.0)
    )


def decode(
    networks: Students,
    schedule: NoiseSchedule,
    chain: Chain,
    noise: Tensor,
    prompt: PromptFeatures,
    w: Sequence[float] | None = None,
) -> Tensor:
    """Noise -> clean latents; w: of each hop, None for unguided."""
    hops = schedule.decode_hops(chain.decode_times)
    scales = w or [0.0] * len(hops)
    return run_trajectory(
        noise, hops, lambda k, hop, x: _hop(networks, "reverse", hop, x, prompt, scales[k])
    )


def _hop(
    networks: Students, role: Role, hop: Hop, x: Tensor, prompt: PromptFeatures, w: float
) -> Tensor:
    t, scale = (torch.full((len(x),), value, device=x.device) for value in (hop.t, float(w)))
    return hop.A * x + hop.B * networks.eps(role, x, t, prompt, scale)


def cycle_loss(
    networks: Students, base: Base, data: Data, chain: Chain, rng: np.random.Generator, count: int
) -> Iterator[Part]:
    """Encoding, decoding and the VAE against the picture (Inverse-and-Edit, arXiv 2506.19103),
    unguided.

    Squared and absolute error of pixels in [-1, 1]; the picture is the VAE's own of the clean
    latents, the best that any latents give. Only the forward network learns. From encode step 0 it
    starts at the clean latents themselves.
    """
    sample = data.draw(rng, count)
    t = torch.full((count,), chain.encode_times[0], device=sample.latents.device)
    start = data.tables.noised(sample.latents, sample.noise, t)
    with torch.no_grad():
        wanted = base.to_pictures(sample.latents)
    schedule = data.tables.schedule
    noise = encode(networks, schedule, chain, start, sample.prompt)
    latents = decode(networks, schedule, chain, noise, sample.prompt)
    error = base.to_pictures(latents) - wanted
    squared = error.square().mean()
    yield Part("loss", squared + error.abs().mean())
    yield Part("psnr", -10 * torch.log10(squared.detach() / 4), weight=0.0)
