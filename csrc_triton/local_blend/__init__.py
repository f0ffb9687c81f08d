"""Local blend: keep the source picture wherever the blend words' attention maps do not ask for a
change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from csrc_triton import fused
from csrc_triton.checks import check_tensors
from csrc_triton.local_blend.reference import local_blend_reference

__all__ = ["local_blend"]


def local_blend(
    latents: Tensor,
    maps_source: Tensor,
    maps_target: Tensor,
    source_row: Tensor,
    *,
    use_blend: Tensor,
    threshold: float = 0.3,
    user_mask: Tensor | None = None,
    source_latents: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mix target latents with their source where the masks are open: (latents [S + T, C, H, W],
    mask [T, H, W]).

    x_t <- x_s + mask (x_t - x_s), where mask = (source words' mask OR target words' mask) *
    user_mask. A word mask is the word map, 3x3 max-pooled, upsampled (nearest) to H x W, divided by
    its maximum, > threshold: prompt-to-prompt's local blend as arXiv 2406.14539 uses it. Source
    rows come back unchanged, and so does a target where its mask is 1.

    latents: [S + T, C, H, W] float32, S source rows, then T target rows.
    maps_source, maps_target: [T, h, w] float32, at most H x W, attention to the blend words of each
        target's source prompt and of its own prompt, mean over heads and layers, summed over the
        steps so far. A map whose maximum is 0 or not finite opens nothing.
    source_row: [T] int64, in 0..S-1 (not checked: that would wait for the device).
    use_blend: [T] bool; False opens the whole row, so that only user_mask acts on it.
    threshold: share of a map's maximum, at least 0.
    user_mask: [T, H, W] float32 in 0..1 or None (all 1).
    source_latents: [S, C, H, W] float32 or None. Where given (the source branch is kept from an
        earlier run), latents holds the T target rows alone, and so does the result.

    Both results are new and contiguous. Raises ValueError or TypeError, naming the argument.
    """
    maps = (maps_source, maps_target)
    arguments = (latents, *maps, source_row, use_blend, user_mask, threshold, source_latents)
    _check(*arguments)
    blend = torch.ops.icd.local_blend if fused(latents) else local_blend_reference
    return blend(*arguments)


def _check(
    latents: Tensor,
    maps_source: Tensor,
    maps_target: Tensor,
    source_row: Tensor,
    use_blend: Tensor,
    user_mask: Tensor | None,
    threshold: float,
    source_latents: Tensor | None,
) -> None:
    for name, tensor, axes in (
        ("latents", latents, 4),
        ("maps_source", maps_source, 3),
        ("source_row", source_row, 1),
    ):
        if tensor.ndim != axes:
            raise ValueError(f"{name} must have {axes} axes, got {list(tensor.shape)}")
    targets = source_row.shape[0]
    (height, width) = latents.shape[2:]
    (h, w) = maps_source.shape[1:]
    # So that upsampling skips no cell, and no maximum is of nothing
    if not (1 <= h <= height and 1 <= w <= width):
        raise ValueError(
            f"maps_source must be 1 x 1 to the latents' {height} x {width}, got {h} x {w}"
        )
    if source_latents is None and latents.shape[0] <= targets:
        raise ValueError(f"latents has {latents.shape[0]} rows: {targets} targets and no source")
    if source_latents is not None and latents.shape[0] != targets:
        raise ValueError(
            f"latents must be the {targets} targets beside source_latents, got {latents.shape[0]} rows"
        )
    if source_latents is not None and (source_latents.ndim != 4 or not source_latents.shape[0]):
        raise ValueError(
            f"source_latents must be [S, C, H, W] with S > 0, got {list(source_latents.shape)}"
        )
    if not threshold >= 0:
        raise ValueError(f"threshold must be at least 0, got {threshold}")
    maps_shape = (targets, h, w)
    sources = 0 if source_latents is None else source_latents.shape[0]
    float32 = (torch.float32,)
    expected = {
        "latents": (latents, latents.shape, float32),
        "maps_source": (maps_source, maps_shape, float32),
        "maps_target": (maps_target, maps_shape, float32),
        "source_row": (source_row, (targets,), (torch.int64,)),
        "use_blend": (use_blend, (targets,), (torch.bool,)),
        "user_mask": (user_mask, (targets, height, width), float32),
        "source_latents": (source_latents, (sources, *latents.shape[1:]), float32),
    }
    check_tensors(expected)


_op = torch.library.custom_op(
    "icd::local_blend", local_blend_reference, mutates_args=(), device_types="cpu"
)


@_op.register_kernel("cuda")
def _cuda(*arguments: Any) -> tuple[Tensor, Tensor]:
    from csrc_triton.local_blend.kernel import launch  # Triton exists on GPU builds only

    return launch(*arguments)


@_op.register_fake
def _fake(
    latents: Tensor, maps_source: Tensor, maps_target: Tensor, source_row: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    mask = latents.new_empty((source_row.shape[0], *latents.shape[2:]))
    return torch.empty_like(latents, memory_format=torch.contiguous_format), mask
