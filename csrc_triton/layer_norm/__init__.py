"""The residual sum between two blocks of a transformer and the LayerNorm of it, in one pass over
the tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from csrc_triton import fused
from csrc_triton.checks import NETWORK_DTYPES, check_tensors, listed
from csrc_triton.layer_norm.reference import layer_norm_reference

__all__ = ["layer_norm"]


def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    carry: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Add the residual, then normalise over the last axis: (sum, normed), both of x's shape and
    dtype.

    sum = x + residual, added in float32 and rounded once to x's dtype; without a residual it is x
    itself. normed = (sum - mean) / sqrt(variance + eps) * weight + bias (arXiv 1607.06450), mean
    and biased variance over the C channels of the rounded sum, all in float32. The sum is the next
    block's residual: `x, h = layer_norm(attention_output, weight, bias, residual=x)`.

    carry: [C] in x's dtype or None, added to the sum that is returned and not to what is normed: the
    bias of a product that will be added to it. Not without a residual.

    x, residual: [..., C], one dtype of float32, float16 and bfloat16. weight, bias: [C], float32 or
    x's dtype. The kernel takes tokens with any stride between them in place, and copies others
    first; C is at most 8192 there.

    Raises ValueError or TypeError, naming the argument. Differentiable, as plain PyTorch is,
    wherever gradients are on.
    """
    _check(x, weight, bias, residual, carry)
    if not fused(x):
        return layer_norm_reference(x, weight, bias, eps, residual=residual, carry=carry)
    if residual is None:
        return x, torch.ops.icd.layer_norm(x, weight, bias, eps)
    return torch.ops.icd.add_layer_norm(x, residual, weight, bias, eps, carry)


def _check(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, carry: Tensor | None
) -> None:
    if x.ndim < 1:
        raise ValueError("x must be [..., C], got a scalar")
    if x.dtype not in NETWORK_DTYPES:
        raise TypeError(f"x must be {listed(NETWORK_DTYPES)}, got {x.dtype}")
    if carry is not None and residual is None:
        raise ValueError("carry is not taken without a residual")
    channels = x.shape[-1:]
    parameters = (torch.float32, x.dtype)
    expected = {
        "x": (x, x.shape, (x.dtype,)),
        "weight": (weight, channels, parameters),
        "bias": (bias, channels, parameters),
        "residual": (residual, x.shape, (x.dtype,)),
        "carry": (carry, channels, (x.dtype,)),
    }
    check_tensors(expected)


# Two operators, because one that hands its input back would alias it. Both return contiguous
# tensors.
@torch.library.custom_op("icd::layer_norm", mutates_args=(), device_types="cpu")
def _norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return layer_norm_reference(x, weight, bias, eps)[1]


@torch.library.custom_op("icd::add_layer_norm", mutates_args=(), device_types="cpu")
def _add_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    carry: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    total, normed = layer_norm_reference(x, weight, bias, eps, residual=residual, carry=carry)
    return total.contiguous(), normed


@_norm.register_kernel("cuda")
def _norm_cuda(*arguments: Any) -> Tensor:
    from csrc_triton.layer_norm.kernel import launch  # Triton exists on GPU builds only

    return launch(*arguments)[1]


@_add_norm.register_kernel("cuda")
def _add_norm_cuda(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    carry: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    from csrc_triton.layer_norm.kernel import launch

    return launch(x, weight, bias, eps, residual=residual, carry=carry)


@_norm.register_fake
def _norm_fake(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_add_norm.register_fake
def _add_norm_fake(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _norm_fake(x), _norm_fake(x)
