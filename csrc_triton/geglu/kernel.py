"""geglu as one Triton kernel: both halves are read once, one product is written."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# (Triton's launch syntax, kernel[grid](...), has no types.)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 8
BLOCK = 256  # divides the widths in use (256 to 5120), so no lane idles


@triton.jit
def geglu_kernel(
    hidden,
    out,
    rows,
    hidden_row,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program p handles ROWS rows and BLOCK of their WIDTH columns: blocks of one set of rows are
    neighbours.

    hidden_row is a stride, in elements; columns are adjacent, the gate WIDTH after the value, out
    contiguous.
    """
    blocks: tl.constexpr = (WIDTH + BLOCK - 1) // BLOCK
    row = tl.program_id(0) // blocks * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < WIDTH)
    row = row.to(tl.int64)

    offset = row * hidden_row + column
    value = tl.load(hidden + offset, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(hidden + offset + WIDTH, mask=inside, other=0.0).to(tl.float32)
    result = value * (gate * (0.5 + 0.5 * tl.erf(gate * 0.7071067811865476)))
    tl.store(out + row * WIDTH + column, result.to(out.dtype.element_ty), mask=inside)


def launch(hidden: Tensor) -> Tensor:
    """Run the kernel; arguments as `geglu`, already checked.

    CPU tensors need Triton's interpreter.
    """
    width = hidden.shape[-1] // 2
    out = hidden.new_empty((*hidden.shape[:-1], width))
    if not out.numel():
        return out

    lines = hidden.reshape(-1, 2 * width)
    if lines.stride(-1) != 1:
        lines = lines.contiguous()
    with torch.cuda.device_of(hidden):  # Triton launches on the current device
        geglu_kernel[triton.cdiv(len(lines), ROWS) * triton.cdiv(width, BLOCK),](
            lines, out, len(lines), lines.stride(0), width, ROWS, BLOCK,
            enable_fp_fusion=True,  # said aloud because Triton 3.10 changes the default
        )  # fmt: skip
    return out
