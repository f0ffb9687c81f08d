"""layer_norm as one Triton kernel: a row stays in registers from the residual sum to the normed
result."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportOptionalMemberAccess=false
# (Triton's launch syntax, kernel[grid](...), has no types, and
# `total` is a pointer or None.)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Elements a program holds at least: 16 a thread with 4 warps, two 16-byte loads of each bf16 input
TILE = 2048
MOST_CHANNELS = 8192


@triton.jit
def layer_norm_kernel(
    x,
    residual,
    weight,
    bias,
    carry,
    total,
    normed,
    rows,
    x_row,
    residual_row,
    eps,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program p handles ROWS whole rows; BLOCK is the power of 2 that holds their CHANNELS.

    x_row and residual_row are strides, in elements; channels are adjacent, total and normed
    contiguous. residual and total may both be None, which compiles the sum away, and carry may be.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    channel = tl.arange(0, BLOCK)[None, :]
    present = channel < CHANNELS
    inside = (row < rows) & present
    row = row.to(tl.int64)
    offset = row * CHANNELS + channel

    # All loads come first: none could be moved above the barriers of the sums below.
    s = tl.load(x + row * x_row + channel, mask=inside, other=0.0).to(tl.float32)
    gain = tl.load(weight + channel, mask=present, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=present, other=0.0).to(tl.float32)
    if residual is not None:
        addend = tl.load(residual + row * residual_row + channel, mask=inside, other=0.0)
        rounded = (s + addend.to(tl.float32)).to(total.dtype.element_ty)
        s = rounded.to(tl.float32)  # the statistics are those of the rounded sum
        if carry is not None:
            more = tl.load(carry + channel, mask=present, other=0.0).to(tl.float32)
            rounded = (s + more).to(total.dtype.element_ty)
        tl.store(total + offset, rounded, mask=inside)

    # Two passes, in registers: the mean of squares less the squared mean loses its digits where the
    # mean is large.
    mean = tl.sum(s, axis=1, keep_dims=True) / CHANNELS
    centred = tl.where(inside, s - mean, 0.0)
    variance = tl.sum(centred * centred, axis=1, keep_dims=True) / CHANNELS
    result = centred * tl.rsqrt(variance + eps) * gain + shift
    tl.store(normed + offset, result.to(normed.dtype.element_ty), mask=inside)


def tile(channels: int) -> dict[str, int]:
    """The constants of the kernel and its warps, 16 elements a thread.

    They depend on nothing but the channels, so each layer of a network compiles once, whatever the
    picture's size.
    """
    block = triton.next_power_of_2(channels)
    return {
        "CHANNELS": channels,
        "ROWS": max(TILE // block, 1),
        "BLOCK": block,
        "num_warps": max(block // 512, 4),
    }


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    carry: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the kernel; arguments as `layer_norm`, already checked.

    CPU tensors need Triton's interpreter.
    """
    channels = x.shape[-1]
    if channels > MOST_CHANNELS:
        raise ValueError(
            f"x has {channels} channels: the kernel keeps a row in registers, at most {MOST_CHANNELS}"
        )
    normed = torch.empty_like(x, memory_format=torch.contiguous_format)
    total = None if residual is None else torch.empty_like(normed)
    if x.numel():
        x_rows = _rows(x)
        residual_rows = None if residual is None else _rows(residual)
        rows = len(x_rows)
        constants = tile(channels)
        with torch.cuda.device_of(x):  # Triton launches on the current device
            layer_norm_kernel[triton.cdiv(rows, constants["ROWS"]),](
                x_rows, residual_rows, weight.contiguous(), bias.contiguous(),
                None if carry is None else carry.contiguous(), total, normed, rows, x_rows.stride(0),
                0 if residual_rows is None else residual_rows.stride(0), eps, **constants,
                enable_fp_fusion=True,  # said aloud because Triton 3.10 changes the default
            )  # fmt: skip
    return x if total is None else total, normed


def _rows(x: Tensor) -> Tensor:
    """x as [rows, C] with adjacent channels: a view where the strides allow it, else a copy."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(-1) == 1 else rows.contiguous()
