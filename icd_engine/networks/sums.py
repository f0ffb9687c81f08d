"""Sums that nobody has taken yet. On CUDA an addition by itself is a launch and a pass over its maps;
the group norm that comes next reads them anyway."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from csrc_triton import fused
from csrc_triton.conv3x3 import conv3x3


class Sum(NamedTuple):
    """x + residual + shift, of a [B, C, H, W]; made where operations are fused, and nowhere else."""

    x: Tensor
    residual: Tensor | None
    shift: Tensor  # [C]


Map = Tensor | Sum


def taken(x: Map) -> Tensor:
    """The map, added up if it is a sum: [B, C, H, W]."""
    if isinstance(x, Tensor):
        return x
    total = x.x if x.residual is None else x.x + x.residual
    return total + x.shift[:, None, None]


def convolution(conv: nn.Conv2d, x: Tensor) -> Map:
    """conv(x), its bias not added yet: cuDNN's convolutions have none."""
    if conv.bias is None or not fused(x):
        return conv(x)
    if conv.padding == (1, 1):
        y = convolved(x, conv.weight, conv.stride[0])
    else:
        y = F.conv2d(x, conv.weight, None, conv.stride, conv.padding)
    return Sum(y, None, conv.bias)


def convolved(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """The 3x3 convolution without its bias; ours where it was measured to be faster."""
    if fused(x):
        return conv3x3(x, weight, stride=stride)
    return F.conv2d(x, weight, None, stride, padding=1)
