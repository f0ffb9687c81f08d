"""conv3x3 as a product that gathers its own columns: [B H W, 9 C] @ [9 C, O] in Triton, K in parts.

Counted, with H W pixels of the result: 18 B H W C O FLOPs; weights (18 C O bytes in half precision),
x, residual and result once, and 8 B H W O bytes for every part of K, which stay in the L2: 1.3 MB a
part at 8x8x1280 and 2 rows, 10 MB a part at 32x32x640. Without a norm a tile of pixels goes over the
rows, and 8x8 maps of two rows share their weights' way from the L2. The norm is applied nine times to
every element, once for each tap that reads it, and again for every tile of channels: an exponential for
2 x 64 FLOPs at least.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false
# (Triton's launch syntax, kernel[grid](...), has no types.)

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

# The interpreter's tl.dot takes the bits of bfloat16 for integers: there the operands are widened
# first.
INTERPRETED: tl.constexpr = tl.constexpr(knobs.runtime.interpret)
ADDED = 1024  # numbers of a program that adds parts up


# x [rows, height, width, channels] and weight [outer, 9, channels] are contiguous, gain and offset
# [rows, channels]; bias, shift and residual are [outer], [rows, outer] and [pixels, outer], with the
# pixels of the result, of all rows. out is [pixels, outer], or parts [split, pixels, outer] in
# float32: then the additions are `add_parts_kernel`'s. EVEN: whether INNER divides the channels. Maps of
# all sizes and numbers share a program.
@triton.jit(do_not_specialize=["rows", "height", "width"])
def conv3x3_kernel(
    x, weight, bias, gain, offset, shift, residual, out,
    rows, height, width, channels, outer,
    STRIDE: tl.constexpr, PIXELS: tl.constexpr, OUTER: tl.constexpr, INNER: tl.constexpr,
    EVEN: tl.constexpr, STEPS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Program (tile, part): PIXELS pixels by OUTER channels, over STEPS steps of INNER channels of one
    tap each; tiles of pixels are the fast axis."""
    across = tl.cdiv(width, STRIDE)
    of_row = tl.cdiv(height, STRIDE) * across
    # A tile has pixels of all rows, and with a norm of one, as gain and offset are
    together = rows * of_row if gain is None else of_row
    of_norm = tl.cdiv(together, PIXELS)
    beside = rows * of_row // together * of_norm
    norm = tl.program_id(0) % beside // of_norm
    pixel = tl.program_id(0) % of_norm * PIXELS + tl.arange(0, PIXELS)
    known = pixel < together
    pixel += norm * together
    into = tl.program_id(0) // beside * OUTER + tl.arange(0, OUTER)
    row = pixel // of_row
    y = pixel % of_row // across * STRIDE
    x_ = pixel % across * STRIDE
    blocks = tl.cdiv(channels, INNER)

    total = tl.zeros([PIXELS, OUTER], tl.float32)
    # A constant number of steps: Triton 3.6's interpreter has no other loops with numpy 2.5. Those
    # of the last part that are beyond the last tap read nothing.
    for i in range(STEPS):
        step = tl.program_id(1) * STEPS + i
        tap = step // blocks
        channel = step % blocks * INNER + tl.arange(0, INNER)
        at_y = y + tap // 3 - 1
        at_x = x_ + tap % 3 - 1
        lines = tl.where(tap < 9, height, 0)
        read = (known & (at_y >= 0) & (at_y < lines) & (at_x >= 0) & (at_x < width))[:, None]
        weighed = (into < tl.where(tap < 9, outer, 0))[:, None]
        if not EVEN:
            read = read & (channel < channels)[None, :]
            weighed = weighed & (channel < channels)[None, :]
        place = ((row * height + at_y) * width + at_x)[:, None] * channels + channel[None, :]
        taken = tl.load(x + place, mask=read, other=0.0)
        if gain is not None:
            own = norm * channels
            taken = normed(taken, read, gain + own, offset + own, channel, channels)
        place = (into[:, None] * 9 + tap) * channels + channel[None, :]
        factors = tl.load(weight + place, mask=weighed, other=0.0)
        if INTERPRETED and taken.dtype == tl.bfloat16:
            taken = taken.to(tl.float32)
            factors = factors.to(tl.float32)
        total = tl.dot(taken, tl.trans(factors), total, input_precision="ieee")

    written = known[:, None] & (into < outer)[None, :]
    place = pixel[:, None] * outer + into[None, :]
    if PARTS:
        out += tl.program_id(1).to(tl.int64) * rows * of_row * outer
    else:
        total = with_additions(
            total, bias, shift, residual, row[:, None], into[None, :], place, outer, written
        )
    tl.store(out + place, total.to(out.dtype.element_ty), mask=written)


@triton.jit
def normed(taken, read, gain, offset, channel, channels):
    """SiLU of what was read times gain plus offset; padding is of what is normed, so it stays 0."""
    a = tl.load(gain + channel, mask=channel < channels, other=0.0)[None, :]
    b = tl.load(offset + channel, mask=channel < channels, other=0.0)[None, :]
    y = taken.to(tl.float32) * a + b
    return tl.where(read, y / (1.0 + tl.exp(-y)), 0.0).to(taken.dtype)


@triton.jit
def with_additions(total, bias, shift, residual, row, into, place, outer, written):
    """total, of these rows and channels and at these places of the result, and what is added to it."""
    if bias is not None:
        total += tl.load(bias + into, mask=into < outer, other=0.0).to(tl.float32)
    if shift is not None:
        total += tl.load(shift + row * outer + into, mask=written, other=0.0).to(tl.float32)
    if residual is not None:
        total += tl.load(residual + place, mask=written, other=0.0).to(tl.float32)
    return total


@triton.jit
def add_parts_kernel(
    parts, bias, shift, residual, out, numbers, of_row, outer,
    SPLIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program `block` adds up BLOCK of the result's numbers, `of_row` in a row, part after part, and
    what is added."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    written = place < numbers
    total = tl.zeros([BLOCK], tl.float32)
    for _ in range(SPLIT):
        total += tl.load(parts + place, mask=written, other=0.0)
        parts += numbers
    total = with_additions(
        total, bias, shift, residual, place // of_row, place % outer, place, outer, written
    )
    tl.store(out + place, total.to(out.dtype.element_ty), mask=written)


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gain: Tensor | None,
    offset: Tensor | None,
    shift: Tensor | None,
    residual: Tensor | None,
    stride: int,
    tiling: Sequence[int],
) -> Tensor:
    """Run the kernels; arguments as `conv3x3`, already checked, and a tiling as in its TILINGS. CPU
    tensors need Triton's interpreter."""
    rows, channels, height, width = x.shape
    outer = weight.shape[0]
    shape = (rows, outer, *(-(-size // stride) for size in (height, width)))
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if not out.numel():
        return out
    if max(x.numel(), weight.numel(), out.numel()) >= 2**31:
        raise ValueError("x, weight or the result has over 2^31 elements: offsets are 32-bit")
    block, outers, inner, split, num_warps, num_stages = tiling
    whole = 9 * triton.cdiv(channels, inner)
    steps = max(triton.cdiv(whole, split), 1)
    split = triton.cdiv(whole, steps)  # what rounding up leaves without work is no part
    x, weight = (_last(given) for given in (x, weight))
    residual = None if residual is None else _last(residual)
    bias, gain, offset, shift = (
        None if given is None else given.contiguous() for given in (bias, gain, offset, shift)
    )
    parts = out
    if split > 1:
        parts = torch.empty((split, out.numel()), dtype=torch.float32, device=x.device)
    pixels = shape[2] * shape[3]
    beside = (
        triton.cdiv(rows * pixels, block) if gain is None else rows * triton.cdiv(pixels, block)
    )
    tiles = beside * triton.cdiv(outer, outers)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        conv3x3_kernel[tiles, split](
            x, weight, bias, gain, offset, shift, residual, parts,
            rows, height, width, channels, outer,
            STRIDE=stride, PIXELS=block, OUTER=outers, INNER=inner, EVEN=channels % inner == 0,
            STEPS=steps, PARTS=split > 1,
            num_warps=num_warps, num_stages=num_stages, enable_fp_fusion=True,
        )  # fmt: skip
        if split > 1:
            add_parts_kernel[(triton.cdiv(out.numel(), ADDED),)](
                parts, bias, shift, residual, out, out.numel(), pixels * outer, outer,
                SPLIT=split, BLOCK=ADDED, num_warps=4, enable_fp_fusion=True,
            )  # fmt: skip
    return out


def _last(x: Tensor) -> Tensor:
    """The tensor with its channels adjacent in memory."""
    return x.contiguous(memory_format=torch.channels_last)
