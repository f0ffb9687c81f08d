"""A matrix product added to the residual it is for, where that lies.

PyTorch's `addmm` copies its addend first, and inductor makes a product and an addition. Here cuBLAS
adds in the product's own epilogue, in float32, and rounds once. There is no kernel of ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from csrc_triton import fused
from csrc_triton.add_product.reference import add_product_reference
from csrc_triton.checks import NETWORK_DTYPES, check_tensors

__all__ = ["add_product"]


def add_product(total: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """total + x weight^T: [..., N]. With a kernel's freedom: on CUDA with gradients off `total` itself
    is changed and comes back, elsewhere the sum is new.

    total: [..., N], contiguous; x: [..., K]; weight: [N, K]; one dtype of float32, float16 and bfloat16.

    Raises ValueError or TypeError, naming the argument. Differentiable, as plain PyTorch is, wherever
    gradients are on.
    """
    _check(total, x, weight)
    if not fused(x):
        return add_product_reference(total, x, weight)
    torch.ops.icd.add_product(total, x, weight)
    return total


def _check(total: Tensor, x: Tensor, weight: Tensor) -> None:
    if weight.ndim != 2:
        raise ValueError(f"weight must be [N, K], got {list(weight.shape)}")
    if x.ndim < 1:
        raise ValueError("x must be [..., K], got a scalar")
    expected = {
        "x": (x, (*x.shape[:-1], weight.shape[1]), NETWORK_DTYPES),
        "total": (total, (*x.shape[:-1], weight.shape[0]), (x.dtype,)),
        "weight": (weight, weight.shape, (x.dtype,)),
    }
    check_tensors(expected)
    if fused(x) and not total.is_contiguous():
        raise ValueError("total must be contiguous")


@torch.library.custom_op("icd::add_product", mutates_args=("total",))
def _op(total: Tensor, x: Tensor, weight: Tensor) -> None:
    total.view(-1, weight.shape[0]).addmm_(x.reshape(-1, weight.shape[1]), weight.t())


@_op.register_fake
def _fake(total: Tensor, x: Tensor, weight: Tensor) -> None:
    return None
