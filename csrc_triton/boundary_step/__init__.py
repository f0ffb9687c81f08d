"""One consistency hop for all rows: combine guided and unguided predictions, then x_s = A x_t + B
eps."""

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
) -> Tensor:
    """Take every row of `latents` from its time step t to its boundary s; a new contiguous float32
    [R, C, H, W].

    x_s = A x_t + B eps, where A = a_s / a_t and B = sigma_s - A sigma_t (the consistency boundary
    update of arXiv 2406.14539 for noise prediction). Models that are not guidance-distilled predict
    twice: eps <- eps_uncond + (1 + w)(eps - eps_uncond), where w = 0 is unguided (the paper writes
    w + 1). A row with w = 0 takes exactly `eps`; its `eps_uncond` is not looked at and may hold
    anything, NaN included.

    latents: [R, C, H, W] float32. eps, eps_uncond: the same shape, any floating dtype and strides
    (channels-last is read in place). A, B, w: [R] float32 on the same device, so a captured CUDA
    graph replays with new values.

    Raises ValueError or TypeError, naming the argument. Differentiable, as plain PyTorch is,
    wherever gradients are on.
    """
    _check(latents, eps, A, B, eps_uncond, w)
    if fused(latents):
        return torch.ops.icd.boundary_step(latents, eps, A, B, eps_uncond, w)
    return boundary_step_reference(latents, eps, A, B, eps_uncond, w)


def _check(
    latents: Tensor, eps: Tensor, A: Tensor, B: Tensor, eps_uncond: Tensor | None, w: Tensor | None
) -> None:
    if latents.ndim != 4:
        raise ValueError(f"latents must be [R, C, H, W], got {list(latents.shape)}")
    if (eps_uncond is None) != (w is None):
        raise ValueError("eps_uncond and w are given together or not at all")
    rows = latents.shape[:1]
    float32 = (torch.float32,)
    expected = {
        "latents": (latents, latents.shape, float32),
        "A": (A, rows, float32),
        "B": (B, rows, float32),
        "w": (w, rows, float32),
        "eps": (eps, latents.shape, FLOATING),
        "eps_uncond": (eps_uncond, latents.shape, FLOATING),
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
