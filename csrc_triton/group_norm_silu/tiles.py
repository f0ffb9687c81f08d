"""What both kernels of group_norm_silu do with tiles of pixels x channels: load them, and take the
moments of their groups."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_tile(
    x, skip, residual, more, pixel, channel, inside, width, x_y, x_x, skip_y, skip_x,
    SPLIT: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """The elements of [x, skip] at pixel [P, 1] and channel [1, C]; x and skip point at the first
    pixel of a channel. With SUM those of x are x + residual + more, rounded; the residual, None or a
    map, lies as x does.

    A map whose pixels are evenly spaced has None for its stride between lines.
    """
    offset = _pixel_offset(pixel, width, x_y, x_x)
    tile = x + offset
    if skip is not None:  # chosen by address: each element is one load
        tile = tl.where(channel < SPLIT, tile, skip + _pixel_offset(pixel, width, skip_y, skip_x))
    value = tl.load(tile, mask=inside, other=0.0)
    if SUM:
        total = value.to(tl.float32)
        if residual is not None:
            own = inside if skip is None else inside & (channel < SPLIT)
            total += tl.load(residual + offset, mask=own, other=0.0).to(tl.float32)
        value = (total + more).to(value.dtype)
    return value


@triton.jit
def of_channels(values, place, present, BLOCK: tl.constexpr):
    """The values [1, C] at these places in float32; 0 where there are none (None)."""
    if values is None:
        found = tl.zeros([1, BLOCK], tl.float32)
    else:
        found = tl.load(values + place, mask=present, other=0.0).to(tl.float32)
    return found


@triton.jit
def of_group(values, member):
    """To each channel [1, C] what its group has of values [G, 1]."""
    return tl.sum(tl.where(member, values, 0.0), axis=0, keep_dims=True)


@triton.jit
def scaled(tile, mean, gain, beta, SILU: tl.constexpr):
    """The tile normed, in float32, and SiLU of it where that is wanted."""
    y = (tile.to(tl.float32) - mean) * gain + beta
    if SILU:
        y = y / (1.0 + tl.exp(-y))
    return y


@triton.jit
def store_sum(total, place, channel, tile, carried, inside, SPLIT: tl.constexpr):
    """The tile's first SPLIT channels and what is carried, rounded, at these pixels of a sum [..., SPLIT]
    where one is wanted."""
    if total is not None:
        value = (tile.to(tl.float32) + carried).to(tile.dtype)
        tl.store(total + place * SPLIT + channel, value, mask=inside & (channel < SPLIT))


@triton.jit
def _pixel_offset(pixel, width, y_stride, x_stride):
    if y_stride is None:
        offset = pixel.to(tl.int64) * x_stride
    else:  # divided in 32 bits: 64-bit division is slow
        offset = (pixel // width).to(tl.int64) * y_stride + (pixel % width).to(tl.int64) * x_stride
    return offset


@triton.jit
def tile_mean(tile, inside, count):
    """The mean [1, C] of each channel's `count` pixels inside."""
    return tl.sum(tl.where(inside, tile.to(tl.float32), 0.0), axis=0, keep_dims=True) / count


@triton.jit
def moments_of_tile(tile, inside, more, pixels, member):
    """(mean, M2) [G, 1] of groups whose map one tile holds, `more` added to each channel."""
    shift = tile_mean(tile, inside, pixels * 1.0)
    deviation = tl.where(inside, tile.to(tl.float32) - shift, 0.0)
    total = tl.sum(deviation, axis=0, keep_dims=True)
    square = tl.sum(deviation * deviation, axis=0, keep_dims=True)
    return group_moments(shift + more, total, square, pixels * 1.0, member)


@triton.jit
def moments_of_tiles(
    tile, x, skip, residual, more, first, stop, channel, present, member, width,
    x_y, x_x, skip_y, skip_x, SPLIT: tl.constexpr, SUM: tl.constexpr, PIXELS: tl.constexpr,
    TILES: tl.constexpr,
):  # fmt: skip
    """The same of a map's pixels from first to stop, in TILES tiles, of which the first is given; all
    else as in `load_tile`."""
    pixel = tl.arange(0, PIXELS)[:, None] + first
    # Deviations are taken from the first tile's mean. Their squares exceed the chunk's own by its
    # mean's distance from that, so with n tiles they cost at most a factor n of precision, however
    # far from zero the mean lies, and none where tiles are alike.
    shift = tile_mean(tile, (pixel < stop) & present, tl.minimum(stop - first, PIXELS) * 1.0)
    total = tl.zeros(tile.shape, tl.float32)
    square = tl.zeros(tile.shape, tl.float32)
    for i in range(TILES):
        inside = (pixel + i * PIXELS < stop) & present
        later = pixel + (i + 1) * PIXELS
        ahead = load_tile(
            x, skip, residual, more, later, channel, (later < stop) & present, width, x_y, x_x,
            skip_y, skip_x, SPLIT, SUM,
        )  # fmt: skip
        deviation = tl.where(inside, tile.to(tl.float32) - shift, 0.0)
        total += deviation
        square += deviation * deviation
        tile = ahead
    total = tl.sum(total, axis=0, keep_dims=True)
    square = tl.sum(square, axis=0, keep_dims=True)
    if not SUM:  # what is added moves a channel's mean, and no deviation from it
        shift += more
    return group_moments(shift, total, square, (stop - first) * 1.0, member)


@triton.jit
def group_moments(shift, total, squares, count, member):
    """(mean, M2) [G, 1] of groups from sums of v - shift and (v - shift)^2 over the `count` pixels
    of each channel."""
    mean = shift + total / count
    M2 = tl.maximum(squares - total * (total / count), 0.0)
    return merge(tl.where(member, count, 0.0), mean, M2)


@triton.jit
def merge(count, mean, M2):
    """(mean, M2) [G, 1] of the union along axis 1 of sets with these moments; M2 is the sum of
    squared deviations.

    Sets with count 0 are absent and may hold anything. The mean is corrected once, so that of equal
    means it is exact.
    """
    there = count > 0
    n = tl.maximum(tl.sum(count, axis=1, keep_dims=True), 1.0)
    rough = tl.sum(tl.where(there, count * mean, 0.0), axis=1, keep_dims=True) / n
    merged = (
        rough + tl.sum(tl.where(there, count * (mean - rough), 0.0), axis=1, keep_dims=True) / n
    )
    apart = mean - merged
    return merged, tl.sum(tl.where(there, M2 + count * apart * apart, 0.0), axis=1, keep_dims=True)


@triton.jit
def share_of_program(pixels, SHARE: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr):
    """(block of channels, row, first pixel, end) of this program; channels are the fast axis of the
    grid, then shares of SHARE pixels, then rows."""
    blocks: tl.constexpr = (CHANNELS + WIDTH - 1) // WIDTH
    shares = tl.cdiv(pixels, SHARE)
    block = tl.program_id(0) % blocks
    first = tl.program_id(0) // blocks % shares * SHARE
    row = (tl.program_id(0) // blocks // shares).to(tl.int64)
    return block, row, first, tl.minimum(first + SHARE, pixels)


@triton.jit
def merged_chunks(
    means, squares, row, block, lane, pixels, chunk,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, BESIDE: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of a program's groups, BESIDE of them, from those of a row's
    chunks."""
    group = block * BESIDE + lane
    known = (lane < BESIDE) & (group < GROUPS)
    part = tl.arange(0, CHUNKS)[None, :]
    count = tl.where(known, tl.minimum(pixels - part * chunk, chunk), 0)
    offset = (row * tl.cdiv(pixels, chunk) + part) * GROUPS + group
    part_mean = tl.load(means + offset, mask=count > 0, other=0.0)
    part_M2 = tl.load(squares + offset, mask=count > 0, other=0.0)
    return merge(tl.maximum(count, 0) * (1.0 * DEPTH), part_mean, part_M2)
