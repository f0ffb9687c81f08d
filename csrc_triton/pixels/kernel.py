"""from_pixels and to_pixels as Triton kernels: one read, one write, in the order that pixels have
in memory."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# (Triton's launch syntax, kernel[grid](...), has no types.)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # values of one program: 768 programs for a 512x512 picture


@triton.jit
def offset_in(
    picture, n, size, width, picture_stride, y_stride, x_stride, channel_stride, DENSE: tl.constexpr
):
    """Offset of value n of a picture, counted as [H, W, 3], in memory of these strides; DENSE:
    there in that order."""
    if DENSE:
        offset = picture * size + n
    else:
        # The position in a picture is divided in 32 bits (64-bit division is slow); only the
        # offsets need 64.
        y = (n // 3 // width).to(tl.int64)
        x = (n // 3 % width).to(tl.int64)
        channel = (n % 3).to(tl.int64)
        offset = picture * picture_stride + y * y_stride + x * x_stride + channel * channel_stride
    return offset


@triton.jit
def from_pixels_kernel(
    pixels,
    out,
    size,
    width,
    picture_stride,
    y_stride,
    x_stride,
    channel_stride,
    DENSE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program p writes BLOCK values of one picture: pictures are the slow axis of the grid.

    size: values of a picture. The strides are those of pixels; out is [B, H, W, 3] in memory.
    """
    blocks = tl.cdiv(size, BLOCK)
    picture = (tl.program_id(0) // blocks).to(tl.int64)
    n = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = n < size
    source = offset_in(
        picture, n, size, width, picture_stride, y_stride, x_stride, channel_stride, DENSE
    )
    x = tl.load(pixels + source, mask=inside, other=0).to(tl.float32)
    # `/` is off by 2 ulp and the reciprocal of 127.5 is not exact. Nothing here can become a fused
    # multiply-add.
    tl.store(
        out + picture * size + n, (tl.div_rn(x, 127.5) - 1.0).to(out.dtype.element_ty), mask=inside
    )


@triton.jit
def to_pixels_kernel(
    pictures,
    out,
    size,
    width,
    picture_stride,
    y_stride,
    x_stride,
    channel_stride,
    DENSE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program p writes BLOCK bytes of one picture: pictures are the slow axis of the grid.

    size: values of a picture. The strides are those of pictures; out is contiguous [B, H, W, 3].
    """
    blocks = tl.cdiv(size, BLOCK)
    picture = (tl.program_id(0) // blocks).to(tl.int64)
    n = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = n < size
    source = offset_in(
        picture, n, size, width, picture_stride, y_stride, x_stride, channel_stride, DENSE
    )
    x = tl.load(pictures + source, mask=inside, other=0.0).to(tl.float32)

    value = (x + 1.0) * 127.5
    value = tl.where(value > 0.0, value, 0.0)  # a NaN is not above 0 and becomes 0
    # Scaling is monotonic, so clipping after it is clipping to [-1, 1] before it. Here it also
    # keeps the product and the sum below apart: as one multiply-add they would not round the
    # product, and a value beside a half could flip.
    value = tl.minimum(value, 255.0)
    # From 2^23 to 2^24 floats are integers: adding 1.5 * 2^23 rounds half to even, and the low bits
    # are the integer.
    byte = (value + 12582912.0).to(tl.int32, bitcast=True) & 0xFF
    tl.store(out + picture * size + n, byte.to(tl.uint8), mask=inside)


def launch_from_pixels(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Run the kernel; arguments as `from_pixels`, already checked.

    CPU tensors need Triton's interpreter.
    """
    batch, height, width, channels = pixels.shape
    shape = (batch, channels, height, width)
    out = torch.empty(shape, dtype=dtype, device=pixels.device, memory_format=torch.channels_last)
    _launch(from_pixels_kernel, pixels, out)
    return out


def launch_to_pixels(pictures: Tensor) -> Tensor:
    """Run the kernel; arguments as `to_pixels`, already checked.

    CPU tensors need Triton's interpreter.
    """
    values = pictures.permute(0, 2, 3, 1)  # a view
    out = torch.empty(values.shape, dtype=torch.uint8, device=pictures.device)
    _launch(to_pixels_kernel, values, out)
    return out


def _launch(kernel: triton.JITFunction, values: Tensor, out: Tensor) -> None:
    """Run one of the kernels from `values` [B, H, W, 3] of any strides into `out`, [B, H, W, 3] in
    memory."""
    batch, height, width, channels = values.shape
    size = height * width * channels
    if size > 2**31 - BLOCK:
        raise ValueError(f"a picture has {size} values: positions inside a picture are 32-bit")
    if not out.numel():
        return
    with torch.cuda.device_of(values):  # Triton launches on the current device
        kernel[batch * triton.cdiv(size, BLOCK),](
            values, out, size, width, *values.stride(), DENSE=values.is_contiguous(), BLOCK=BLOCK,
            enable_fp_fusion=True,  # said aloud because Triton 3.10 changes the default
        )  # fmt: skip
