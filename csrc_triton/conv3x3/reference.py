"""conv3x3 in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def conv3x3_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    gain: Tensor | None = None,
    offset: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    stride: int = 1,
) -> Tensor:
    """As `csrc_triton.conv3x3.conv3x3`, unchecked: each step rounds to x's dtype."""
    if gain is not None and offset is not None:
        x = F.silu(x.float() * _over_pixels(gain) + _over_pixels(offset)).to(x.dtype)
    y = F.conv2d(x, weight, bias, stride, padding=1)
    if shift is not None:
        y = y + _over_pixels(shift)
    return y if residual is None else y + residual


def _over_pixels(values: Tensor) -> Tensor:
    return values.unsqueeze(-1).unsqueeze(-1)
