"""How group_norm_silu shares a map out to programs: a function of shapes, so that no run waits for
a tuner."""

from __future__ import annotations

from math import lcm
from typing import NamedTuple

SMS = 132  # of an H200
# Elements that a program normalises without a second reading: 64 a thread with 16 warps
WHOLE = 32768
# Bytes of a map that a program may norm alone, reading them twice: at some 80 GB/s an SM that takes
# as long as the launch it saves
ALONE = 96 * 1024
# a program has one tile in flight; two programs an SM then cover the memory's latency
TILE_BYTES = 16384
MOST_CHUNKS = 128  # every norm program reads the moments of all chunks of its groups


class Plan(NamedTuple):
    """Sizes in channels, pixels and tiles."""

    width: int  # channels of a program: whole groups
    block: int  # the power of 2 that holds them
    tile: int  # pixels a program holds at once
    # Tiles of a statistics program; 0 where a norm program has the whole map of its groups and needs
    # no other
    chunk: int
    share: int  # tiles of a norm program
    warps: int


def plan(rows: int, channels: int, groups: int, pixels: int, itemsize: int, joined: bool) -> Plan:
    """The plan for `rows` maps of `channels` x `pixels` elements of `itemsize` bytes, `joined` of
    two tensors or not.

    Maps whose groups fit a tile, or are few bytes, take one launch, with as few groups a program as
    leave it a memory transaction of 32 channels. Others take two. Of the blocks whose groups begin at multiples of 16
    bytes that one is chosen which leaves the fewest lanes idle, at least 64 channels wide (a line
    of the L2 in bf16); tiles shrink until every SM has one.
    """
    depth = channels // groups
    block = max(_power_of_2(depth), 32)
    width = min(block // depth * depth, channels)
    tile = _power_of_2(pixels)
    # Of two tensors the addresses alone take a thread's registers
    if tile * block <= (WHOLE // 2 if joined else WHOLE):
        return Plan(width, block, tile, 0, 1, _warps(tile * block))
    if width * pixels * itemsize <= ALONE and block <= WHOLE // 4:
        tile = WHOLE // 4 // block
        return Plan(width, block, tile, 0, _parts(pixels, tile), _warps(tile * block))

    # 8 elements of 2 bytes; where Triton chooses between two addresses it proves half of their
    # alignment.
    aligned = lcm(depth, 16 if joined else 8)
    step = min(aligned if aligned <= 256 else depth, channels)
    blocks = [block for block in (64, 128, 256) if block >= step] or [_power_of_2(step)]
    block = min(blocks, key=lambda block: _parts(channels, block // step * step) * block)
    width = min(block // step * step, channels)

    beside = rows * _parts(channels, width)
    tile = max(TILE_BYTES // itemsize // block, 1)
    while tile > 16 and _parts(pixels, tile) * beside < SMS:
        tile //= 2
    chunks = min(max(4 * SMS // beside, 1), MOST_CHUNKS)
    shares = max(8 * SMS // beside, 1)
    chunk, share = (_parts(_parts(pixels, tile), parts) for parts in (chunks, shares))
    return Plan(width, block, tile, chunk, share, _warps(tile * block))


def _power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _parts(whole: int, part: int) -> int:
    return -(-whole // part)


def _warps(elements: int) -> int:
    """32 elements a thread, 4 to 16 warps."""
    return min(max(elements // 1024, 4), 16)
