"""The definition of boundary_step in plain PyTorch; it is what runs on the CPU, in training and in
exports."""

from __future__ import annotations

import torch
from torch import Tensor


def boundary_step_reference(
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
    """x_s = A x_t + B eps + (share residual)[source_row] per row, with eps <- eps_uncond + (1 + w)
    (eps - eps_uncond) where w is not 0.

    Shapes as `csrc_triton.boundary_step.boundary_step`, unchecked; all arithmetic in float32.
    """
    A = A.view(-1, 1, 1, 1)
    B = B.view(-1, 1, 1, 1)
    eps = eps.float()
    if eps_uncond is not None and w is not None:
        w = w.view(-1, 1, 1, 1)
        eps_uncond = eps_uncond.float()
        guided = eps_uncond + (1 + w) * (eps - eps_uncond)
        # Not arithmetic: an unguided row's second prediction may be garbage
        eps = torch.where(w == 0, eps, guided)
    stepped = A * latents + B * eps
    if residual is not None and source_row is not None and share is not None:
        stepped = stepped + (share.view(-1, 1, 1, 1) * residual)[source_row]
    return stepped.contiguous()
