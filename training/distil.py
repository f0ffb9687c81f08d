"""The distillations as losses of one batch: guidance into the network, both ways into few hops, the
whole cycle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from icd_engine.networks.text_encoder import PromptFeatures
from icd_engine.sampling.schedule import Hop, NoiseSchedule
from icd_engine.sampling.trajectory import run_trajectory
from training import losses
from training.base import Base
from training.batches import Data, Sample, joined
from training.choices import Chain, Guidance, Preservation
from training.losses import Boundaries
from training.networks import Role, Students, predict
from training.recipe import Part


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
    sample = data.draw(rng, count)
    w = guidance.draw(rng, count)
    yield from _consistency(networks, data.tables, chain, sample, w, distance, rng)
    kept = sample.part(max(1, int(count * keep.share)))
    yield from _preservation(networks, data.tables, chain, kept, keep, distance, rng)


def _predictor(
    networks: Students, role: Role, prompt: PromptFeatures, w: Tensor | None = None
) -> losses.Predict:
    return lambda x, t: networks.eps(role, x, t, prompt, w)


def _consistency(
    networks: Students,
    tables: Boundaries,
    chain: Chain,
    sample: Sample,
    w: Tensor,
    distance: losses.Distance,
    rng: np.random.Generator,
) -> Iterator[Part]:
    """Of the decode network (the paper's reverse) under guidance, then of the encode network (its
    forward), which has none."""
    count = len(sample.latents)
    place = w.device
    t, t_next = (steps.to(place) for steps in losses.reverse_steps(rng, count, chain.end))
    yield Part(
        "reverse",
        losses.consistency_loss(
            _predictor(networks, "reverse", sample.prompt, w),
            _predictor(networks, "teacher", sample.prompt, w),
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
            _predictor(networks, "forward", sample.prompt),
            _predictor(networks, "teacher", sample.prompt),
            tables,
            tables.noised(sample.latents, sample.noise, t),
            t,
            t_next,
            losses.encode_boundary(t_next, (*chain.encode_times[1:], chain.end)),
            distance,
        ),
    )


def _preservation(
    networks: Students,
    tables: Boundaries,
    chain: Chain,
    sample: Sample,
    keep: Preservation,
    distance: losses.Distance,
    rng: np.random.Generator,
) -> Iterator[Part]:
    """What each network undoes of the other's hop, unguided."""
    latents, noise, prompt = sample
    count = len(latents)
    place = latents.device
    up = _predictor(networks, "forward", prompt)
    down = _predictor(networks, "reverse", prompt)
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
    )[-1]


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
    )[-1]


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
