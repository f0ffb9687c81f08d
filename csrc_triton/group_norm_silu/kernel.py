"""group_norm_silu in Triton, on tiles of pixels x channels: contiguous in memory where maps are
channels-last.

Bytes: x and skip are read twice and the result is written once, 3 B C H W elements together (7.9 MB
for a row of 64x64x320 in bf16, 201 MB for 512x512x128): no result can be written before the
statistics are complete, and those span the whole map. Below 50 MB the second reading finds the map
in the H200's L2. Maps that fit a tile are read once. Sums are taken as they are read, and written
once more.

Why the split: a row has 32 groups and the chip 132 SMs, so with a block per group three quarters of
it would idle at batch 1, and a group's 8 to 160 bytes a pixel are no whole memory transactions. So
programs take several whole groups side by side and a chunk of the pixels. statistics_kernel writes
each chunk's (mean, sum of squared deviations) a group, norm_kernel merges them, every program for
itself and in one order: no atomics, and each run gives the same bits. Groups of few bytes are left
to one program each that reads them twice: a launch takes longer.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false
# (Triton's launch syntax, kernel[grid](...), has no types.)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from csrc_triton.group_norm_silu.plan import Plan, plan
from csrc_triton.group_norm_silu.tiles import (
    load_tile,
    merged_chunks,
    moments_of_tile,
    moments_of_tiles,
    of_channels,
    of_group,
    scaled,
    share_of_program,
    store_sum,
)

DEEPEST = 8192


@triton.jit
def statistics_kernel(
    x, skip, residual, added, means, squares, pixels, width,
    x_row, x_channel, x_y, x_x, skip_row, skip_channel, skip_y, skip_x, added_row,
    CHANNELS: tl.constexpr, SPLIT: tl.constexpr, DEPTH: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_GROUPS: tl.constexpr, PIXELS: tl.constexpr, TILES: tl.constexpr,
    SUM: tl.constexpr,
):  # fmt: skip
    """Program p takes the moments of TILES tiles of PIXELS x WIDTH of a row: [B, chunks, groups].

    Channels are the fast axis of the grid. CHANNELS are C, SPLIT of them x's, DEPTH a group's;
    BLOCK and BLOCK_GROUPS are the powers of 2 that hold WIDTH and its groups. The names after width
    are strides, in elements. added may be None: what each channel of a row has more than x; SUM:
    whether it is added to elements, and rounded, and not to means alone.
    """
    block, row, first, stop = share_of_program(pixels, TILES * PIXELS, CHANNELS, WIDTH)
    column = tl.arange(0, BLOCK)[None, :]
    channel = block * WIDTH + column
    present = (column < WIDTH) & (channel < CHANNELS)
    x += row * x_row + channel.to(tl.int64) * x_channel
    if skip is not None:
        skip += row * skip_row + (channel - SPLIT).to(tl.int64) * skip_channel
    if residual is not None:
        residual += row * x_row + channel.to(tl.int64) * x_channel
    more = of_channels(added, row * added_row + channel, present & (channel < SPLIT), BLOCK)

    pixel = first + tl.arange(0, PIXELS)[:, None]
    inside = (pixel < stop) & present
    tile = load_tile(
        x, skip, residual, more, pixel, channel, inside, width, x_y, x_x, skip_y, skip_x, SPLIT, SUM
    )
    lane = tl.arange(0, BLOCK_GROUPS)[:, None]
    member = (column // DEPTH == lane) & present
    mean, M2 = moments_of_tiles(
        tile, x, skip, residual, more, first, stop, channel, present, member, width,
        x_y, x_x, skip_y, skip_x, SPLIT, SUM, PIXELS, TILES,
    )  # fmt: skip

    group = block * (WIDTH // DEPTH) + lane
    known = (lane < WIDTH // DEPTH) & (group < CHANNELS // DEPTH)
    chunk: tl.constexpr = TILES * PIXELS
    offset = (row * tl.cdiv(pixels, chunk) + first // chunk) * (CHANNELS // DEPTH) + group
    tl.store(means + offset, mean, mask=known)
    tl.store(squares + offset, M2, mask=known)


@triton.jit
def norm_kernel(
    x, skip, residual, added, carry, weight, bias, means, squares, total_out, out, pixels, chunk, width, eps,
    x_row, x_channel, x_y, x_x, skip_row, skip_channel, skip_y, skip_x, added_row,
    CHANNELS: tl.constexpr, SPLIT: tl.constexpr, DEPTH: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_GROUPS: tl.constexpr, PIXELS: tl.constexpr, TILES: tl.constexpr,
    CHUNKS: tl.constexpr, SILU: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Program p norms TILES tiles of a row, names as above; out is [B, H, W, C], total_out [B, H, W,
    SPLIT] the sum and carry. means and squares are of chunks of `chunk` pixels, CHUNKS the power of 2
    that holds a row's; None: the tiles are the map, and its moments are taken here."""
    block, row, first, stop = share_of_program(pixels, TILES * PIXELS, CHANNELS, WIDTH)
    column = tl.arange(0, BLOCK)[None, :]
    channel = block * WIDTH + column
    present = (column < WIDTH) & (channel < CHANNELS)
    x += row * x_row + channel.to(tl.int64) * x_channel
    if skip is not None:
        skip += row * skip_row + (channel - SPLIT).to(tl.int64) * skip_channel
    if residual is not None:
        residual += row * x_row + channel.to(tl.int64) * x_channel
    # Loaded before the barriers of the sums below: no load could be moved above them.
    own = present & (channel < SPLIT)
    more = of_channels(added, row * added_row + channel, own, BLOCK)
    pixel = first + tl.arange(0, PIXELS)[:, None]
    inside = (pixel < stop) & present
    tile = load_tile(
        x, skip, residual, more, pixel, channel, inside, width, x_y, x_x, skip_y, skip_x, SPLIT, SUM
    )
    gamma = of_channels(weight, channel, present, BLOCK)
    beta = of_channels(bias, channel, present, BLOCK)
    carried = of_channels(carry, channel, own, BLOCK)
    apart = 0.0 if SUM else more  # else tiles have it

    lane = tl.arange(0, BLOCK_GROUPS)[:, None]
    member = (column // DEPTH == lane) & present
    if means is not None:
        mean, M2 = merged_chunks(
            means, squares, row, block, lane, pixels, chunk, CHANNELS // DEPTH, DEPTH, WIDTH // DEPTH, CHUNKS
        )  # fmt: skip
    elif TILES == 1:
        mean, M2 = moments_of_tile(tile, inside, apart, pixels, member)
    else:
        mean, M2 = moments_of_tiles(
            tile, x, skip, residual, more, first, stop, channel, present, member, width,
            x_y, x_x, skip_y, skip_x, SPLIT, SUM, PIXELS, TILES,
        )  # fmt: skip
    mean = of_group(mean, member) - apart
    gain = gamma * of_group(tl.rsqrt(M2 / (pixels * (1.0 * DEPTH)) + eps), member)

    for i in range(TILES):
        pixel = first + i * PIXELS + tl.arange(0, PIXELS)[:, None]
        ahead = load_tile(
            x, skip, residual, more, pixel + PIXELS, channel, (pixel + PIXELS < stop) & present, width,
            x_y, x_x, skip_y, skip_x, SPLIT, SUM,
        )  # fmt: skip
        y = scaled(tile, mean, gain, beta, SILU)
        inside = (pixel < stop) & present
        place = row * pixels + pixel.to(tl.int64)
        store_sum(total_out, place, channel, tile, carried, inside, SPLIT)
        tl.store(out + place * CHANNELS + channel, y.to(out.dtype.element_ty), mask=inside)
        tile = ahead


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    skip: Tensor | None = None,
    silu: bool = True,
    shift: Tensor | None = None,
    *,
    sums: bool = False,
    residual: Tensor | None = None,
    carry: Tensor | None = None,
    planned: Plan | None = None,
) -> Any:
    """Run the kernels; arguments as `group_norm_silu`, already checked. CPU tensors need Triton's
    interpreter. With `sums` as `add_group_norm`: (sum, normed).

    `planned` replaces the plan: for tests and measurements.
    """
    if residual is not None:
        x, residual = (own.contiguous(memory_format=torch.channels_last) for own in (x, residual))
    rows, split, height, width = x.shape
    channels = len(weight)
    pixels = height * width
    depth = channels // groups
    _check_size(depth, pixels)
    shape = (rows, channels, height, width)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    total = torch.empty_like(x, memory_format=torch.channels_last) if sums else None
    result = out if total is None else (total, out)
    if not out.numel():
        return result

    size = x.element_size() * (1 if residual is None else 2)  # in flight for an element of the map
    p = planned or plan(rows, channels, groups, pixels, size, sums or skip is not None)
    strides = *_strides(x), *((0, 0, None, 0) if skip is None else _strides(skip))
    shift = None if shift is None else shift if shift.stride(1) == 1 else shift.contiguous()
    added_row = 0 if shift is None else shift.stride(0)
    constants = _constants(p, channels, split, depth) | {"SUM": sums}
    means = squares = None
    chunk, share = p.chunk * p.tile, p.share * p.tile
    chunks = 1
    beside = rows * triton.cdiv(channels, p.width)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        if chunk:
            chunks = triton.cdiv(pixels, chunk)
            means, squares = torch.empty(
                (2, rows, chunks, groups), dtype=torch.float32, device=x.device
            )
            statistics_kernel[beside * chunks,](
                x, skip, residual, shift, means, squares, pixels, width, *strides, added_row,
                TILES=p.chunk, **constants,
            )  # fmt: skip
        norm_kernel[beside * triton.cdiv(pixels, share),](
            x, skip, residual, shift, None if carry is None else carry.contiguous(), weight.contiguous(),
            bias.contiguous(), means, squares, total, out, pixels, chunk, width, eps,
            *strides, added_row, TILES=p.share, CHUNKS=triton.next_power_of_2(chunks), SILU=silu, **constants,
        )  # fmt: skip
    return result


def _check_size(depth: int, pixels: int) -> None:
    if depth > DEEPEST:
        raise ValueError(
            f"groups have {depth} channels: the kernel's tiles hold whole groups of at most {DEEPEST}"
        )
    if pixels > 2**28:
        raise ValueError(f"x has {pixels} pixels: positions inside a map are 32-bit")


def launch_sum(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    shift: Tensor | None = None,
    carry: Tensor | None = None,
    skip: Tensor | None = None,
    silu: bool = False,
) -> tuple[Tensor, Tensor]:
    """The same for `add_group_norm`."""
    added = {"residual": residual, "carry": carry}
    return launch(x, weight, bias, groups, eps, skip, silu, shift, sums=True, **added)


def _constants(p: Plan, channels: int, split: int, depth: int) -> dict[str, int | bool]:
    """What both kernels are compiled for."""
    return {
        "CHANNELS": channels,
        "SPLIT": split,
        "DEPTH": depth,
        "WIDTH": p.width,
        "BLOCK": p.block,
        "BLOCK_GROUPS": triton.next_power_of_2(p.width // depth),
        "PIXELS": p.tile,
        "num_warps": p.warps,
        "enable_fp_fusion": True,  # said aloud because Triton 3.10 changes the default
    }


def _strides(x: Tensor) -> tuple[int, int, int | None, int]:
    """Strides of x: row, channel, line, pixel; None for the line's where pixels are evenly
    spaced."""
    row, channel, y, x_ = x.stride()
    height, width = x.shape[2:]
    if height == 1 or width == 1:
        return row, channel, None, x_ if height == 1 else y
    return row, channel, None if y == width * x_ else y, x_
