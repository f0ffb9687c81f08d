"""The definitions of from_pixels and to_pixels in plain PyTorch; also the CPU implementation and
what exporters see."""

from __future__ import annotations

import torch
from torch import Tensor


def from_pixels_reference(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 [B, H, W, 3] -> [B, 3, H, W]: x / 127.5 - 1 in float32, then rounded to `dtype`."""
    # A tensor, because CUDA divides by a Python number as a product with its reciprocal, which
    # rounds differently.
    scale = torch.full((), 127.5, device=pixels.device)
    pictures = (pixels.permute(0, 3, 1, 2).float() / scale - 1).to(dtype)
    return pictures.contiguous(
        memory_format=torch.channels_last if pixels.is_cuda else torch.contiguous_format
    )


def to_pixels_reference(pictures: Tensor) -> Tensor:
    """[B, 3, H, W] -> uint8 [B, H, W, 3]: clipped to [-1, 1], (x + 1) * 127.5 in float32, rounded
    half to even."""
    # a NaN as uint8 would be anything
    pictures = pictures.float().nan_to_num(nan=-1.0).clamp(-1, 1)
    return ((pictures + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
