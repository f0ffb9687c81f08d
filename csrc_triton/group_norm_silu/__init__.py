"""GroupNorm of a map, or of two maps side by side, and the SiLU after it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from csrc_triton import fused
from csrc_triton.checks import NETWORK_DTYPES, check_tensors, listed
from csrc_triton.group_norm_silu.reference import (
    add_group_norm_reference,
    group_norm_silu_reference,
)

__all__ = ["add_group_norm", "group_norm_silu"]


def group_norm_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    *,
    skip: Tensor | None = None,
    silu: bool = True,
    shift: Tensor | None = None,
) -> Tensor:
    """SiLU of the GroupNorm of [x, skip]: [B, C, H, W] in x's dtype, where C = C1 + C2.

    y = (v - mean) / sqrt(variance + eps) * weight + bias (arXiv 1803.08494) for the channels v of x
    and then those of skip, mean and biased variance over the C // groups channels and all pixels of
    a group; the result is y sigmoid(y), or y without silu. All in float32, rounded once. A group
    may begin in x and end in skip. Stable Diffusion has it at the head of every residual block,
    with the skip of its way up, and (without silu) of every transformer.

    x: [B, C1, H, W]; skip: [B, C2, H, W] or None; one dtype of float32, float16 and bfloat16, any
    strides.
    weight, bias: [C], float32 or x's dtype. groups divides C.
    shift: [B, C] in x's dtype or None, added to all pixels first: a convolution's bias, a time step's
        share. The kernel adds it in float32, the reference in x's dtype. Not with a skip.

    The kernel (CUDA, gradients off) reads both maps where they lie, fastest channels-last, and
    returns a channels-last map. The reference keeps x's memory format: channels-last for
    channels-last, else contiguous.

    Raises ValueError or TypeError, naming the argument. Differentiable, as plain PyTorch is,
    wherever gradients are on.
    """
    if skip is not None and shift is not None:
        raise ValueError("shift is not taken with a skip")
    _check(x, weight, bias, groups, skip, shift)
    if fused(x):
        return torch.ops.icd.group_norm_silu(x, weight, bias, groups, eps, skip, silu, shift)
    return group_norm_silu_reference(x, weight, bias, groups, eps, skip, silu, shift)


def add_group_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    *,
    shift: Tensor | None = None,
    carry: Tensor | None = None,
    skip: Tensor | None = None,
    silu: bool = False,
) -> tuple[Tensor, Tensor]:
    """A sum and the GroupNorm of it, or of it and skip: (sum [B, C1, H, W], normed [B, C, H, W]) in x's
    dtype.

    sum = x + residual + shift, added in float32 and rounded once; normed is the `group_norm_silu` of
    [sum, skip]. The sum that is returned has carry more: the bias of a product that will be added to
    it.

    x, residual: [B, C1, H, W] of one dtype. shift: [B, C1], carry: [C1], in that dtype. All but x may be
    None. skip, weight, bias, groups, eps, silu, and the layout of results: see `group_norm_silu`.

    Raises ValueError or TypeError, naming the argument. Differentiable wherever gradients are on.
    """
    _check(x, weight, bias, groups, skip, shift)
    expected = {
        "x": (x, x.shape, (x.dtype,)),
        "residual": (residual, x.shape, (x.dtype,)),
        "carry": (carry, x.shape[1:2], (x.dtype,)),
    }
    check_tensors(expected)
    given = (x, residual, weight, bias, groups, eps, shift, carry, skip, silu)
    return torch.ops.icd.add_group_norm(*given) if fused(x) else add_group_norm_reference(*given)


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    skip: Tensor | None,
    shift: Tensor | None,
) -> None:
    if x.ndim != 4:
        raise ValueError(f"x must be [B, C, H, W], got {list(x.shape)}")
    if x.dtype not in NETWORK_DTYPES:
        raise TypeError(f"x must be {listed(NETWORK_DTYPES)}, got {x.dtype}")
    if skip is not None and (
        skip.ndim != 4 or skip.shape[:1] + skip.shape[2:] != x.shape[:1] + x.shape[2:]
    ):
        raise ValueError(
            f"skip must be {list(x.shape)} but for its channels, got {list(skip.shape)}"
        )
    channels = x.shape[1] + (0 if skip is None else skip.shape[1])
    if groups < 1 or channels < 1 or channels % groups:
        raise ValueError(f"groups must divide the {channels} channels, got {groups}")
    parameters = (torch.float32, x.dtype)
    expected = {
        "x": (x, x.shape, (x.dtype,)),
        "skip": (skip, () if skip is None else skip.shape, (x.dtype,)),
        "shift": (shift, x.shape[:2], (x.dtype,)),
        "weight": (weight, (channels,), parameters),
        "bias": (bias, (channels,), parameters),
    }
    check_tensors(expected)


@torch.library.custom_op("icd::group_norm_silu", mutates_args=(), device_types="cpu")
def _op(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    skip: Tensor | None,
    silu: bool,
    shift: Tensor | None = None,
) -> Tensor:
    y = group_norm_silu_reference(x, weight, bias, groups, eps, skip, silu, shift)
    # The operator has one memory format on every device
    return y.contiguous(memory_format=torch.channels_last)


@_op.register_kernel("cuda")
def _cuda(*arguments: Any) -> Tensor:
    from csrc_triton.group_norm_silu.kernel import launch  # Triton exists on GPU builds only

    return launch(*arguments)


@_op.register_fake
def _fake(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    shape = (x.shape[0], weight.shape[0], *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@torch.library.custom_op("icd::add_group_norm", mutates_args=(), device_types="cpu")
def _add(
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
    given = (x, residual, weight, bias, groups, eps, shift, carry, skip, silu)
    both = add_group_norm_reference(*given)
    # A sum of x alone may be x, which an operator must not hand back
    total, normed = (own.clone(memory_format=torch.channels_last) for own in both)
    return total, normed


@_add.register_kernel("cuda")
def _add_cuda(*arguments: Any) -> tuple[Tensor, Tensor]:
    from csrc_triton.group_norm_silu.kernel import launch_sum

    return launch_sum(*arguments)


@_add.register_fake
def _add_fake(x: Tensor, _: Any, weight: Tensor, *__: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.channels_last), _fake(x, weight)
