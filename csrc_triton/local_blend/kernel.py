"""local_blend as one Triton kernel: maps in, mask and all rows out."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false
# (Triton's launch syntax, kernel[grid](...), and its loops have no types.)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Latents of one program, all channels of 128 pixels: small, for the chip has over 100 SMs
TILE = 512


@triton.jit
def word_mask(word_map, inside, cell_y, cell_x, h, w, threshold, CELLS: tl.constexpr):
    """[BLOCK] bool: where the 3x3 maximum around (cell_y, cell_x) exceeds `threshold` of the map's
    maximum.

    Pooling leaves the maximum of a map as it is, and upsampling drops no cell, so it is taken of
    the map as it lies, by every program for itself: the map is small and stays in the L2 cache.
    """
    cell = tl.arange(0, CELLS)
    value = tl.load(word_map + cell, mask=cell < h * w, other=float("-inf"))
    # The reference's maxima propagate NaN, the GPU's drop it. An infinite maximum opens nothing
    # either, so a NaN counts as one, and the pooling below need not care.
    peak = tl.max(tl.where(value == value, value, float("inf")))

    pooled = tl.full(cell_y.shape, float("-inf"), tl.float32)
    for neighbour in tl.static_range(9):
        y = cell_y + (neighbour // 3 - 1)
        x = cell_x + (neighbour % 3 - 1)
        exists = inside & (y >= 0) & (y < h) & (x >= 0) & (x < w)
        pooled = tl.maximum(pooled, tl.load(word_map + y * w + x, mask=exists, other=float("-inf")))
    # `/` is off by 2 ulp: a pixel at the threshold would flip
    return tl.div_rn(pooled, peak) > threshold


@triton.jit
def local_blend_kernel(
    latents, sources, maps_source, maps_target, source_row, use_blend, user_mask, out, mask_out,
    copied, channels, plane_size, width, h, w, scale_y, scale_x, threshold,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr, CELLS: tl.constexpr,
):  # fmt: skip
    """Program p handles BLOCK pixels, all channels, of one row of latents: rows are the slow axis
    of the grid.

    The first `copied` rows are source rows and copied, the others are targets; source_row counts in
    `sources`, which may be `latents` itself. All tensors are contiguous; user_mask may be None,
    which compiles it away. scale_y = h / H, scale_x = w / W as float32. CHANNELS, CELLS: powers of
    two that hold channels and h * w.
    """
    blocks_per_row = tl.cdiv(plane_size, BLOCK)
    row = (tl.program_id(0) // blocks_per_row).to(tl.int64)
    pixel = (tl.program_id(0) % blocks_per_row) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < plane_size

    channel = tl.arange(0, CHANNELS)[:, None]
    held = (channel < channels) & inside[None, :]
    place = channel * plane_size + pixel[None, :]
    first = row * channels * plane_size
    x_t = tl.load(latents + first + place, mask=held, other=0.0)
    if row < copied:
        tl.store(out + first + place, x_t, mask=held)
    else:
        target = row - copied
        source_first = tl.load(source_row + target) * channels * plane_size
        opened = inside
        if tl.load(use_blend + target):
            # PyTorch's nearest upsampling, rounding included: at 2 -> 82 it is not the integer
            # floor(y h / H).
            cell_y = tl.minimum(((pixel // width).to(tl.float32) * scale_y).to(tl.int32), h - 1)
            cell_x = tl.minimum(((pixel % width).to(tl.float32) * scale_x).to(tl.int32), w - 1)
            map_first = target * h * w
            opened = word_mask(
                maps_source + map_first, inside, cell_y, cell_x, h, w, threshold, CELLS
            )
            opened |= word_mask(
                maps_target + map_first, inside, cell_y, cell_x, h, w, threshold, CELLS
            )
        mask = opened.to(tl.float32)
        mask_place = target * plane_size + pixel
        if user_mask is not None:
            mask *= tl.load(user_mask + mask_place, mask=inside, other=0.0)
        tl.store(mask_out + mask_place, mask, mask=inside)

        # Read this late because the word masks need the registers: earlier, 32x32 maps spill some
        # on sm_90.
        x_s = tl.load(sources + source_first + place, mask=held, other=0.0)
        # As torch.lerp: from the nearer end, hence exact at mask 0 and 1, with fused multiply-adds
        # as without.
        mask = mask[None, :]
        difference = x_t - x_s
        mixed = tl.where(
            tl.abs(mask) < 0.5, x_s + mask * difference, x_t - difference * (1.0 - mask)
        )
        tl.store(out + first + place, mixed, mask=held)


def launch(
    latents: Tensor,
    maps_source: Tensor,
    maps_target: Tensor,
    source_row: Tensor,
    use_blend: Tensor,
    user_mask: Tensor | None = None,
    threshold: float = 0.3,
    source_latents: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the kernel; arguments as `local_blend`, already checked.

    CPU tensors need Triton's interpreter.
    """
    latents = latents.contiguous()
    maps_source = maps_source.contiguous()
    maps_target = maps_target.contiguous()
    source_row = source_row.contiguous()
    use_blend = use_blend.contiguous()
    user_mask = None if user_mask is None else user_mask.contiguous()
    sources = latents if source_latents is None else source_latents.contiguous()
    (rows, channels, height, width) = latents.shape
    (targets, h, w) = maps_source.shape
    out = torch.empty_like(latents)
    mask = latents.new_empty(targets, height, width)
    if channels * height * width > 2**31 - TILE:
        raise ValueError(
            f"a row of latents has {latents[0].numel()} elements: positions inside a row are 32-bit"
        )
    if not out.numel():
        return out, mask

    channels_held = triton.next_power_of_2(channels)
    block = max(TILE // channels_held, 16)
    with torch.cuda.device_of(latents):  # Triton launches on the current device
        local_blend_kernel[rows * triton.cdiv(height * width, block),](
            latents, sources, maps_source, maps_target, source_row, use_blend, user_mask, out, mask,
            rows - targets, channels, height * width, width, h, w, h / height, w / width, float(threshold),
            CHANNELS=channels_held, BLOCK=block, CELLS=triton.next_power_of_2(h * w),
            enable_fp_fusion=True,  # said aloud because Triton 3.10 changes the default
        )  # fmt: skip
    return out, mask
