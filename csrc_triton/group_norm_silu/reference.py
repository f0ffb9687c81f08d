"""The definition of group_norm_silu in plain PyTorch; it is what runs on the CPU, in training and
in exports."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def group_norm_silu_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    skip: Tensor | None = None,
    silu: bool = True,
    shift: Tensor | None = None,
) -> Tensor:
    """SiLU of the GroupNorm of [x, skip], as `csrc_triton.group_norm_silu.group_norm_silu`,
    unchecked.

    The result has x's memory format, but the norm is always taken of a contiguous map: on the CPU,
    PyTorch's channels-last GroupNorm takes the variance in one pass and loses digits.
    """
    if shift is not None:
        x = x + shift[:, :, None, None]
    joined = x if skip is None else torch.cat([x, skip], dim=1)
    y = F.group_norm(joined.contiguous().float(), groups, weight.float(), bias.float(), eps)
    y = (F.silu(y) if silu else y).to(x.dtype)
    channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return y.contiguous(memory_format=torch.channels_last) if channels_last else y


def add_group_norm_reference(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    shift: Tensor | None = None,
    carry: Tensor | None = None,
    skip: Tensor | None = None,
    silu: bool = False,
) -> tuple[Tensor, Tensor]:
    """(x + residual + shift, the GroupNorm of it and skip), as
    `csrc_triton.group_norm_silu.add_group_norm`, unchecked."""
    total = x.float()
    if residual is not None:
        total = total + residual.float()
    if shift is not None:
        total = total + shift.float()[:, :, None, None]
    total = total.to(x.dtype)
    normed = group_norm_silu_reference(total, weight, bias, groups, eps, skip, silu)
    if carry is not None:
        total = total + carry[:, None, None]
    return total, normed
