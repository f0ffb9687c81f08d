"""Attention of heads that are no power of two wide: 40, 80 and 160 channels."""

from __future__ import annotations

import torch
from torch import Tensor

from csrc_triton import fused
from csrc_triton.checks import NETWORK_DTYPES, check_tensors, listed
from csrc_triton.measured import measured_tiling, shape_key
from csrc_triton.self_attention.reference import self_attention_reference

__all__ = ["self_attention"]

# (queries of a program, keys of a step, warps, stages): what is measured first, and what tests run.
# None spills on sm_80, sm_90 and sm_100; no device has been shown to be faster by any of them.
TILINGS = [
    (64, 32, 4, 3),
    (64, 64, 4, 3),
    (128, 32, 4, 2),
    (64, 128, 4, 2),
    (128, 128, 8, 2),
]


def self_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v: [B, H, N, d].

    Libraries compute heads of 40 channels as 64, and of 80 as 128. Here a head is two tiles, 32 + 16
    and 64 + 16.

    q: [B, H, N, d]; k, v: [B, H, n, d]; one dtype of float32, float16 and bfloat16, any strides:
    heads split from a projection's output are read in place. Where the kernel runs the result is [B,
    N, H, d] in memory, so that merging heads is a view.

    The kernel runs on CUDA with gradients off, where `measured.json` has a tiling for the shape:
    elsewhere this is F.scaled_dot_product_attention. Raises ValueError or TypeError, naming the
    argument.
    """
    _check(q, k, v)
    if fused(q):
        key = shape_key(q.dtype, *q.shape[:3], *k.shape[2:])
        tiling = measured_tiling("self_attention", q.device.index, key)
        if tiling is not None:
            return torch.ops.icd.self_attention(q, k, v, list(tiling))
    return self_attention_reference(q, k, v)


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, tensor in {"q": q, "k": k}.items():
        if tensor.ndim != 4:
            raise ValueError(f"{name} must be [B, H, N, d], got {list(tensor.shape)}")
    rows, heads, _, head = q.shape
    tokens = k.shape[2]
    if not (tokens and head):
        raise ValueError(f"k must have positions and channels, got {list(k.shape)}")
    if q.dtype not in NETWORK_DTYPES:
        raise TypeError(f"q must be {listed(NETWORK_DTYPES)}, got {q.dtype}")
    other = (rows, heads, tokens, head)
    own = (q.dtype,)
    check_tensors({"q": (q, q.shape, own), "k": (k, other, own), "v": (v, other, own)})


@torch.library.custom_op("icd::self_attention", mutates_args=(), device_types="cpu")
def _op(q: Tensor, k: Tensor, v: Tensor, tiling: list[int]) -> Tensor:
    # The operator has one memory format on every device
    return self_attention_reference(q, k, v).transpose(1, 2).contiguous().transpose(1, 2)


@_op.register_kernel("cuda")
def _cuda(q: Tensor, k: Tensor, v: Tensor, tiling: list[int]) -> Tensor:
    from csrc_triton.self_attention.kernel import launch  # Triton exists on GPU builds only

    return launch(q, k, v, tiling)


@_op.register_fake
def _fake(q: Tensor, k: Tensor, v: Tensor, tiling: list[int]) -> Tensor:
    rows, heads, positions, head = q.shape
    return q.new_empty(rows, positions, heads, head).transpose(1, 2)
