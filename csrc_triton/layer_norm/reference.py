"""The definition of layer_norm in plain PyTorch; it is what runs on the CPU, in training and in
exports."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def layer_norm_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    carry: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(x + residual, its LayerNorm over the last axis), as `csrc_triton.layer_norm.layer_norm`,
    unchecked."""
    total = x if residual is None else (x.float() + residual.float()).to(x.dtype)
    normed = F.layer_norm(total.float(), total.shape[-1:], weight.float(), bias.float(), eps)
    if carry is not None:
        total = total + carry
    return total, normed.to(x.dtype)
