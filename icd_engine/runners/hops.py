"""The hops of torch runners: one network call each, held to the encode trajectory and blended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from csrc_triton import fused
from csrc_triton.boundary_step import boundary_step
from csrc_triton.local_blend import local_blend
from icd_engine.editing.plan import EditStep
from icd_engine.networks.unet import UNetOutput
from icd_engine.runners.contract import Anchor, Blend, Decoded, SourceBranch, StepCallback
from icd_engine.sampling.schedule import Hop
from icd_engine.sampling.trajectory import run_trajectory


class Opening(NamedTuple):
    """The source rows of all K hops, hop by hop, which an anchored decoding runs in its first call
    with the targets."""

    start: Tensor  # [S, 4, h, w]: before the first hop; before others, on the encode trajectory
    shifts: list[Tensor]  # of [S, D'] for each hop, then [T, D'] of the targets': UNet.time_shifts
    hops: Sequence[Hop]


class DecodeTensors(NamedTuple):
    """DecodeInputs once everything that depends on prompts, time steps and guidance alone is looked
    up. With an opening, latents and shifts are those of the target rows, as with a source branch."""

    latents: Tensor  # [R, 4, h, w]
    # [1], or [K] where rows change by hop, of [R, n, D]: UNet.prompt_values
    prompt: list[Tensor]
    shifts: list[Tensor]  # [K] of [R, D']: UNet.time_shifts
    edits: Sequence[EditStep] | None
    blend: Sequence[Blend] | None
    source: SourceBranch | None
    anchor: Anchor | None
    opening: Opening | None
    parents: Sequence[Tensor] | None


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
) -> list[Tensor]:
    """Latents [B, 4, h, w] float32 up the hops, unguided, as they are after each; prompt [B, n, D],
    shifts [K] of [B, D']."""

    def step(k: int, hop: Hop, x: Tensor) -> Tensor:
        out = _called(predict, x, shifts[k], prompt, None, None, False)
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
    sources = len(inputs.latents) - targets  # that run with the targets
    keeps = keep and inputs.opening is None  # as rows pass; an opening makes the branch at once
    kept = SourceBranch([], [], [])
    branch = inputs.source
    masks = []
    maps = None

    def step(k: int, hop: Hop, x: Tensor) -> Tensor:
        nonlocal branch, maps
        if inputs.parents is not None:
            parents = inputs.parents[k]
            x = torch.cat([x[:sources], x[sources:][parents]])
            maps = None if maps is None else maps[:, parents]
        if k == 0 and inputs.opening is not None:
            eps, word_maps, branch = _opened(predict, inputs, x)
        else:
            eps, word_maps, features = _predicted(predict, inputs, k, x, branch, keeps)
            kept.features.append(features or [])
        unconditional = None if second is None else second(k, hop, x)
        x = _stepped(x, eps, hop, unconditional, sources, _anchoring(inputs, k, branch))
        kept.latents.append(x[:sources])
        if inputs.blend is None:
            return x
        if word_maps is not None:
            maps = word_maps if maps is None else maps + word_maps
        x, mask = _blended(x, maps, inputs.blend[k], branch and branch.latents[k])
        masks.append(mask)
        return x

    latents = run_trajectory(inputs.latents, hops, step, callback)[-1]
    own = kept if keeps else branch
    return Decoded(latents, masks or None, own if keep else None, maps)


def _predicted(
    predict: Predict,
    inputs: DecodeTensors,
    k: int,
    x: Tensor,
    branch: SourceBranch | None,
    keep: bool,
) -> UNetOutput:
    """Hop k's call of the network, target rows alone where the source branch is there."""
    prompt = inputs.prompt[k if len(inputs.prompt) > 1 else 0]
    edit = None if inputs.edits is None else inputs.edits[k]
    features = None if branch is None else branch.features[k]
    return _called(predict, x, inputs.shifts[k], prompt, edit, features, keep)


def _called(predict: Predict, x: Tensor, shifts: Tensor, *others: object) -> UNetOutput:
    """One call of the network, in the dtype of its tables: latents stay float32 between calls. Where
    convolutions want channels last, the copy has them so."""
    order = torch.channels_last if fused(x) else torch.preserve_format
    return predict(x.to(shifts.dtype, memory_format=order), shifts, *others)


# --- anchored decoding ----------------------------------------------------------------------------


# What holds rows to the encode trajectory in one hop: e_s of the sources [S, 4, h, w]; their residual
# [S, 4, h, w] where they have run before, else None; source_row [T]; share [S]
_Anchoring = tuple[Tensor, Tensor | None, Tensor, Tensor]


def _anchoring(inputs: DecodeTensors, k: int, branch: SourceBranch | None) -> _Anchoring | None:
    if inputs.anchor is None or inputs.edits is None:
        return None
    residual = None if branch is None else branch.residuals[k]
    boundary = inputs.anchor.boundaries[k]
    return boundary, residual, inputs.edits[k].source_row, inputs.anchor.share


def _opened(
    predict: Predict, inputs: DecodeTensors, x: Tensor
) -> tuple[Tensor, Tensor | None, SourceBranch]:
    """The first call with the source rows of all hops: targets' eps and word maps, and the source
    branch that it makes."""
    opening = inputs.opening
    anchor = inputs.anchor
    edits = inputs.edits
    assert opening is not None and anchor is not None and edits is not None
    begun = torch.cat([opening.start, *anchor.boundaries[:-1]])
    sources = len(opening.start)
    prompt = inputs.prompt[0]
    out = _called(
        predict,
        torch.cat([begun, x]),
        torch.cat(opening.shifts),
        torch.cat([prompt[:sources]] * len(opening.hops) + [prompt[sources:]]),
        edits[0],
        None,
        True,
    )
    constants = zip(*(_constants(hop, opening.start) for hop in opening.hops), strict=True)
    A, B = (torch.cat(own) for own in constants)
    count = len(begun)
    reached = boundary_step(begun, out.eps[:count], A, B)
    hops = len(opening.hops)
    residuals = [
        boundary - own for boundary, own in zip(anchor.boundaries, reached.chunk(hops), strict=True)
    ]
    features = [feature.chunk(hops) for feature in out.kept or []]
    of_hop = [[feature[k] for feature in features] for k in range(hops)]
    return out.eps[count:], out.word_maps, SourceBranch(anchor.boundaries, of_hop, residuals)


def _stepped(
    x: Tensor,
    eps: Tensor,
    hop: Hop,
    unconditional: tuple[Tensor, Tensor] | None,
    sources: int,
    anchoring: _Anchoring | None,
) -> Tensor:
    """Rows at the hop's boundary: held to the encode trajectory where there is one."""
    A, B = _constants(hop, x)
    second = unconditional or (None, None)
    if anchoring is None:
        return boundary_step(x, eps, A, B, *second)
    boundary, residual, source_row, share = anchoring
    if residual is None:  # source rows run in the same call; they are unguided
        reached = boundary_step(x[:sources], eps[:sources], A[:sources], B[:sources])
        residual = boundary - reached
    x, eps, A, B = (tensor[sources:] for tensor in (x, eps, A, B))
    eps_uncond, w = (None if tensor is None else tensor[sources:] for tensor in second)
    stepped = boundary_step(x, eps, A, B, eps_uncond, w, residual, source_row, share)
    return torch.cat([boundary, stepped]) if sources else stepped


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
