"""boundary_step as one Triton kernel: each latent and each prediction is read once, one result is
written."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# (Triton's launch syntax, kernel[grid](...), has no types.)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Small blocks: two 64x64 rows of 4 channels are only 32,768 elements, and the chip has over 100 SMs
BLOCK = 512


@triton.jit
def boundary_step_kernel(
    latents, eps, eps_uncond, A, B, w, residual, source_row, share, out,
    row_size, plane_size, width, eps_row, eps_channel, eps_y, eps_x,
    uncond_row, uncond_channel, uncond_y, uncond_x, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program p handles BLOCK elements of one row: rows are the slow axis of a one-dimensional
    grid.

    latents, residual and out are contiguous; the names after width are strides, in elements.
    eps_uncond and w may be None, which compiles the guidance away, and so may residual, source_row
    and share.
    """
    blocks_per_row = tl.cdiv(row_size, BLOCK)
    row = (tl.program_id(0) // blocks_per_row).to(tl.int64)
    n = (tl.program_id(0) % blocks_per_row) * BLOCK + tl.arange(0, BLOCK)
    inside = n < row_size

    # The position inside a row is divided in 32 bits (64-bit division is slow); only the offsets
    # need 64.
    channel = (n // plane_size).to(tl.int64)
    y = (n % plane_size // width).to(tl.int64)
    x = (n % width).to(tl.int64)

    eps_offset = row * eps_row + channel * eps_channel + y * eps_y + x * eps_x
    eps_hat = tl.load(eps + eps_offset, mask=inside, other=0.0).to(tl.float32)
    if w is not None:
        w_row = tl.load(w + row)
        if w_row != 0:  # an unguided row never touches its second prediction, whatever it holds
            uncond_offset = (
                row * uncond_row + channel * uncond_channel + y * uncond_y + x * uncond_x
            )
            uncond = tl.load(eps_uncond + uncond_offset, mask=inside, other=0.0).to(tl.float32)
            eps_hat = uncond + (1.0 + w_row) * (eps_hat - uncond)

    offset = row * row_size + n
    x_t = tl.load(latents + offset, mask=inside, other=0.0)
    x_s = tl.load(A + row) * x_t + tl.load(B + row) * eps_hat
    if share is not None:
        source = tl.load(source_row + row)
        missed = tl.load(residual + source * row_size + n, mask=inside, other=0.0)
        x_s += tl.load(share + source) * missed
    tl.store(out + offset, x_s, mask=inside)


def launch(
    latents: Tensor,
    eps: Tensor,
    A: Tensor,
    B: Tensor,
    eps_uncond: Tensor | None = None,
    w: Tensor | None = None,
    residual: Tensor | None = None,
    source_row: Tensor | None = None,
    share: Tensor | None = None,
) -> Tensor:
    """Run the kernel; arguments as `boundary_step`, already checked.

    CPU tensors need Triton's interpreter.
    """
    latents = latents.contiguous()
    A = A.contiguous()
    B = B.contiguous()
    w, residual, source_row, share = (
        None if tensor is None else tensor.contiguous()
        for tensor in (w, residual, source_row, share)
    )
    out = torch.empty_like(latents)
    rows, channels, height, width = latents.shape
    row_size = channels * height * width
    if row_size > 2**31 - BLOCK:
        raise ValueError(
            f"a row of latents has {row_size} elements: positions inside a row are 32-bit"
        )
    if not out.numel():
        return out

    uncond_strides = (0, 0, 0, 0) if eps_uncond is None else eps_uncond.stride()
    with torch.cuda.device_of(latents):  # Triton launches on the current device
        boundary_step_kernel[rows * triton.cdiv(row_size, BLOCK),](
            latents, eps, eps_uncond, A, B, w, residual, source_row, share, out,
            row_size, height * width, width, *eps.stride(), *uncond_strides,
            # Said aloud because Triton 3.10 changes the default
            BLOCK=BLOCK, enable_fp_fusion=True,
        )  # fmt: skip
    return out
