"""The definition of geglu in plain PyTorch; it is what runs on the CPU, in training and in
exports."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def geglu_reference(hidden: Tensor, bias: Tensor | None = None) -> Tensor:
    """value * gelu(gate) in float32, as `csrc_triton.geglu.geglu`, unchecked."""
    projected = hidden.float() if bias is None else hidden.float() + bias.float()
    value, gate = projected.chunk(2, dim=-1)
    return (value * F.gelu(gate)).to(hidden.dtype)
