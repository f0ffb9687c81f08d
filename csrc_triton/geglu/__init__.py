"""GEGLU: one half of a projection, gated by the GELU of the other half."""

from __future__ import annotations

import torch
from torch import Tensor

from csrc_triton import fused
from csrc_triton.geglu.reference import geglu_reference

__all__ = ["geglu"]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def geglu(hidden: Tensor, bias: Tensor | None = None) -> Tensor:
    """value * gelu(gate) of `hidden` = [value | gate], as diffusers' GEGLU (arXiv 2002.05202):
    [..., F].

    gelu(g) = g (1 + erf(g / sqrt 2)) / 2, the exact one. A bias is added to both halves first, so
    that the projection before may leave its own to this operation. All in float32, rounded once to
    hidden's dtype.

    hidden: [..., 2F], float32, float16 or bfloat16; the kernel takes rows with any stride between
    them in place, and copies others first. bias: [2F], float32 or hidden's dtype.

    Raises ValueError or TypeError, naming the argument. Differentiable, as plain PyTorch is,
    wherever gradients are on.
    """
    _check(hidden, bias)
    if fused(hidden):
        return torch.ops.icd.geglu(hidden, bias)
    return geglu_reference(hidden, bias)


def _check(hidden: Tensor, bias: Tensor | None) -> None:
    if hidden.ndim < 1 or hidden.shape[-1] % 2:
        raise ValueError(f"hidden must be [..., 2F], got {list(hidden.shape)}")
    if hidden.dtype not in DTYPES:
        raise TypeError(f"hidden must be float32, float16 or bfloat16, got {hidden.dtype}")
    if bias is None:
        return
    if bias.shape != hidden.shape[-1:]:
        raise ValueError(f"bias must be {list(hidden.shape[-1:])}, got {list(bias.shape)}")
    if bias.device != hidden.device:
        raise ValueError(f"bias is on {bias.device}, hidden on {hidden.device}")
    if bias.dtype not in (torch.float32, hidden.dtype):
        raise TypeError(f"bias must be float32 or of hidden's {hidden.dtype}, got {bias.dtype}")


@torch.library.custom_op("icd::geglu", mutates_args=(), device_types="cpu")
def _op(hidden: Tensor, bias: Tensor | None = None) -> Tensor:
    return geglu_reference(hidden, bias).contiguous()


@_op.register_kernel("cuda")
def _cuda(hidden: Tensor, bias: Tensor | None = None) -> Tensor:
    from csrc_triton.geglu.kernel import launch  # Triton exists on GPU builds only

    return launch(hidden, bias)


@_op.register_fake
def _fake(hidden: Tensor, bias: Tensor | None = None) -> Tensor:
    return hidden.new_empty((*hidden.shape[:-1], hidden.shape[-1] // 2))
