"""One consistency hop for all rows: combine guided and unguided predictions, x_s = A x_t + B eps, and
hold rows to the encode trajectory of their source."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from csrc_triton import fused
from csrc_triton.boundary_step.reference import boundary_step_reference
from csrc_triton.checks import FLOATING, check_tensors

__all__ = ["boundary_step"]


def boundary_step(
    latents: Tensor,
    eps: Tensor,
    A: Tensor,
    B: Tensor,
    eps_uncond: Tensor | None = None,
    w: Tensor | None = None,
    residual: Tensor | None = None,
    source_row: Tensor | None = None,
    share: Tensor | None = None,
) -> Tensor:
    """Take every row of `latents` from its time step t to its boundary s; a new contiguous float32
    [R, C, H, W].

    x_s = A x_t + B eps, where A = a_s / a_t and B = sigma_s - A sigma_t (the consistency boundary
    update of arXiv 2406.14539 for noise prediction). Models that are not guidance-distilled predict
    twice: eps <- eps_uncond + (1 + w)(eps - eps_uncond), where w = 0 is unguided (the paper writes
    w + 1). A row with w = 0 takes exactly `eps`; its `eps_uncond` is not looked at and may hold
    anything, NaN included.

    Anchored decoding adds what the source branch missed its encode trajectory by: x_s <- x_s +
    share[source_row] residual[source_row].

    latents: [R, C, H, W] float32. eps, eps_uncond: the same shape, any floating dtype and strides
    (channels-last is read in place). A, B, w: [R] float32 on the same device, so a captured CUDA
    graph replays with new values. residual: [S, C, H, W] float32, finite. source_row: [R] int64, in
    0..S-1 (not checked: that would wait for the device). share: [S] float32.

    Raises ValueError or TypeError, naming the argument. Differentiable, as plain PyTorch is,
    wherever gradients are on.
    """
    arguments = (latents, eps, A, B, eps_uncond, w, residual, source_row, share)
    _check(*arguments)
    step = torch.ops.icd.boundary_step if fused(latents) else boundary_step_reference
    return step(*arguments)


def _check(
    latents: Tensor,
    eps: Tensor,
    A: Tensor,
    B: Tensor,
    eps_uncond: Tensor | None,
    w: Tensor | None,
    residual: Tensor | None,
    source_row: Tensor | None,
    share: Tensor | None,
) -> None:
    if latents.ndim != 4:
        raise ValueError(f"latents must be [R, C, H, W], got {list(latents.shape)}")
    if (eps_uncond is None) != (w is None):
        raise ValueError("eps_uncond and w are given together or not at all")
    if len({residual is None, source_row is None, share is None}) > 1:
        raise ValueError("residual, source_row and share are given together or not at all")
    if residual is not None and (residual.ndim != 4 or not residual.shape[0]):
        raise ValueError(f"residual must be [S, C, H, W] with S > 0, got {list(residual.shape)}")
    sources = 0 if residual is None else residual.shape[0]
    rows = latents.shape[:1]
    float32 = (torch.float32,)
    expected = {
        "latents": (latents, latents.shape, float32),
        "A": (A, rows, float32),
        "B": (B, rows, float32),
        "w": (w, rows, float32),
        "eps": (eps, latents.shape, FLOATING),
        "eps_uncond": (eps_uncond, latents.shape, FLOATING),
        "residual": (residual, (sources, *latents.shape[1:]), float32),
        "source_row": (source_row, rows, (torch.int64,)),
        "share": (share, (sources,), float32),
    }
    check_tensors(expected)


_op = torch.library.custom_op(
    "icd::boundary_step", boundary_step_reference, mutates_args=(), device_types="cpu"
)


@_op.register_kernel("cuda")
def _cuda(*arguments: Any) -> Tensor:
    from csrc_triton.boundary_step.kernel import launch  # Triton exists on GPU builds only

    return launch(*arguments)


@_op.register_fake
def _fake(latents: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(latents, memory_format=torch.contiguous_format)
