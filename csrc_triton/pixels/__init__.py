"""uint8 pictures to the networks' range and layout, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from csrc_triton import fused
from csrc_triton.checks import FLOATING, listed
from csrc_triton.pixels.reference import from_pixels_reference, to_pixels_reference

__all__ = ["from_pixels", "to_pixels"]


def from_pixels(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bytes 0..255 -> values in [-1, 1]: a new [B, 3, H, W], channels-last in memory on CUDA,
    contiguous on the CPU.

    x / 127.5 - 1 in float32, bit-equal to `icd_engine.images.to_model_range`, then rounded to
    `dtype`. `to_pixels` takes it back to the same bytes from every dtype: bfloat16, the coarsest,
    is off by at most 2^-9, a quarter of a step of 1 / 127.5.

    pixels: uint8 [B, H, W, 3], any strides. dtype: float16, bfloat16, float32 or float64.

    Raises ValueError or TypeError, naming the argument.
    """
    if pixels.ndim != 4 or pixels.shape[3] != 3:
        raise ValueError(f"pixels must be [B, H, W, 3], got {list(pixels.shape)}")
    if pixels.dtype != torch.uint8:
        raise TypeError(f"pixels must be torch.uint8, got {pixels.dtype}")
    if dtype not in FLOATING:
        raise TypeError(f"dtype must be {listed(FLOATING)}, got {dtype}")
    return (torch.ops.icd.from_pixels if fused(pixels) else from_pixels_reference)(pixels, dtype)


def to_pixels(pictures: Tensor) -> Tensor:
    """Values in [-1, 1] -> bytes 0..255: a new contiguous uint8 [B, H, W, 3].

    Clipped to [-1, 1], then (x + 1) * 127.5 in float32, rounded half to even: the bytes of
    `icd_engine.images.to_pil`, which refuses NaN and infinities. Here NaN becomes 0 and infinities
    are clipped.

    pictures: [B, 3, H, W], float16, bfloat16, float32 or float64, any strides (contiguous and
    channels-last are read in place).

    Raises ValueError or TypeError, naming the argument. Gradients do not pass.
    """
    if pictures.ndim != 4 or pictures.shape[1] != 3:
        raise ValueError(f"pictures must be [B, 3, H, W], got {list(pictures.shape)}")
    if pictures.dtype not in FLOATING:
        raise TypeError(f"pictures must be {listed(FLOATING)}, got {pictures.dtype}")
    return (torch.ops.icd.to_pixels if fused(pictures) else to_pixels_reference)(pictures)


_from_pixels = torch.library.custom_op(
    "icd::from_pixels", from_pixels_reference, mutates_args=(), device_types="cpu"
)
_to_pixels = torch.library.custom_op(
    "icd::to_pixels", to_pixels_reference, mutates_args=(), device_types="cpu"
)


@_from_pixels.register_kernel("cuda")
def _from_pixels_cuda(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    from csrc_triton.pixels.kernel import launch_from_pixels  # Triton exists on GPU builds only

    return launch_from_pixels(pixels, dtype)


@_to_pixels.register_kernel("cuda")
def _to_pixels_cuda(pictures: Tensor) -> Tensor:
    from csrc_triton.pixels.kernel import launch_to_pixels

    return launch_to_pixels(pictures)


@_from_pixels.register_fake
def _from_pixels_fake(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    batch, height, width, channels = pixels.shape
    layout = torch.channels_last if pixels.is_cuda else torch.contiguous_format
    shape = (batch, channels, height, width)
    return torch.empty(shape, dtype=dtype, device=pixels.device, memory_format=layout)


@_to_pixels.register_fake
def _to_pixels_fake(pictures: Tensor) -> Tensor:
    batch, channels, height, width = pictures.shape
    return pictures.new_empty((batch, height, width, channels), dtype=torch.uint8)
