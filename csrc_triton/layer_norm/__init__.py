"""The residual sum between two blocks of a transformer and the LayerNorm of it, in one pass over
the tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from csrc_triton import fused
from csrc_triton.layer_norm.reference import layer_norm_reference

__all__ = ["layer_norm"]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, *, residual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Add the residual, then normalise over the last axis: (sum, normed), both of x's shape and
    dtype.

    sum = x + residual, added in float32 and rounded once to x's dtype; without a residual it is x
    itself. normed = (sum - mean) / sqrt(variance + eps) * weight + bias (arXiv 1607.06450), mean
    and biased variance over the C channels of the rounded sum, all in float32. The sum is the next
    block's residual: `x, h = layer_norm(attention_output, weight, bias, residual=x)`.

    x, residual: [..., C], one dtype of float32, float16 and bfloat16. weight, bias: [C], float32 or
    x's dtype. The kernel takes tokens with any stride between them in place, and copies others
    first; C is at most 8192 there.

    Raises ValueError or TypeError, naming the argument. Differentiable, as plain PyTorch is,
    wherever gradients are on.
    """
    _check(x, weight, bias, residual)
    if not fused(x):
        return layer_norm_reference(x, weight, bias, eps, residual=residual)
    if residual is None:
        return x, torch.ops.icd.layer_norm(x, weight, bias, eps)
    return torch.ops.icd.add_layer_norm(x, residual, weight, bias, eps)


def _check(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> None:
    if x.ndim < 1:
        raise ValueError("x must be [..., C], got a scalar")
    if x.dtype not in DTYPES:
        raise TypeError(f"x must be float32, float16 or bfloat16, got {x.dtype}")
    channels = x.shape[-1:]
    parameters = (torch.float32, x.dtype)
    expected = {
        "weight": (weight, channels, parameters),
        "bias": (bias, channels, parameters),
        "residual": (residual, x.shape, (x.dtype,)),
    }
    for name, (tensor, shape, dtypes) in expected.items():
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise ValueError(f"{name} must be {list(shape)}, got {list(tensor.shape)}")
        if tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device}, x on {x.device}")
        if tensor.dtype not in dtypes:
            raise TypeError(
                f"{name} must be {' or '.join(map(str, dict.fromkeys(dtypes)))}, got {tensor.dtype}"
            )


# Two operators, because one that hands its input back would alias it. Both return contiguous
# tensors.
@torch.library.custom_op("icd::layer_norm", mutates_args=(), device_types="cpu")
def _norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return layer_norm_reference(x, weight, bias, eps)[1]


@torch.library.custom_op("icd::add_layer_norm", mutates_args=(), device_types="cpu")
def _add_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    total, normed = layer_norm_reference(x, weight, bias, eps, residual=residual)
    return total.contiguous(), normed


@_norm.register_kernel("cuda")
def _norm_cuda(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    from csrc_triton.layer_norm.kernel import launch  # Triton exists on GPU builds only

    return launch(x, weight, bias, eps)[1]


@_add_norm.register_kernel("cuda")
def _add_norm_cuda(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    from csrc_triton.layer_norm.kernel import launch

    return launch(x, weight, bias, eps, residual=residual)


@_norm.register_fake
def _norm_fake(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_add_norm.register_fake
def _add_norm_fake(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    return _norm_fake(x, weight, bias, eps), _norm_fake(x, weight, bias, eps)
