"""The definition of geglu in plain PyTorch; it is what runs on the CPU, in training and in
exports."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def geglu_reference(hidden: Tensor) -> Tensor:
    """value * gelu(gate) in float32, as `csrc_triton.geglu.geglu`, unchecked."""
    value, gate = hidden.float().chunk(2, dim=-1)
    return (value * F.gelu(gate)).to(hidden.dtype)
