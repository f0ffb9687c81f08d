"""GEGLU: one half of a projection, gated by the GELU of the other half."""

from __future__ import annotations

import torch
from torch import Tensor

from csrc_triton import fused
from csrc_triton.checks import NETWORK_DTYPES, listed
from csrc_triton.geglu.reference import geglu_reference

__all__ = ["geglu"]


def geglu(hidden: Tensor) -> Tensor:
    """value * gelu(gate) of `hidden` = [value | gate], as diffusers' GEGLU (arXiv 2002.05202):
    [..., F].

    gelu(g) = g (1 + erf(g / sqrt 2)) / 2, the exact one. All in float32, rounded once to hidden's
    dtype.

    hidden: [..., 2F], float32, float16 or bfloat16; the kernel takes rows with any stride between
    them in place, and copies others first.

    Raises ValueError or TypeError, naming the argument. Differentiable, as plain PyTorch is,
    wherever gradients are on.
    """
    if hidden.ndim < 1 or hidden.shape[-1] % 2:
        raise ValueError(f"hidden must be [..., 2F], got {list(hidden.shape)}")
    if hidden.dtype not in NETWORK_DTYPES:
        raise TypeError(f"hidden must be {listed(NETWORK_DTYPES)}, got {hidden.dtype}")
    return torch.ops.icd.geglu(hidden) if fused(hidden) else geglu_reference(hidden)


@torch.library.custom_op("icd::geglu", mutates_args=(), device_types="cpu")
def _op(hidden: Tensor) -> Tensor:
    return geglu_reference(hidden).contiguous()


@_op.register_kernel("cuda")
def _cuda(hidden: Tensor) -> Tensor:
    from csrc_triton.geglu.kernel import launch  # Triton exists on GPU builds only

    return launch(hidden)


@_op.register_fake
def _fake(hidden: Tensor) -> Tensor:
    return hidden.new_empty((*hidden.shape[:-1], hidden.shape[-1] // 2))
