"""Large pictures through the VAE in overlapping tiles, so that memory does not grow with the picture.

A tile is not the whole: its group norms take the statistics of the tile, attention in the middle sees the tile alone,
and convolutions are padded at its edges. So colours may drift slightly from tile to tile, which the blending hides, and
the result differs a little from the whole picture's. Only pictures that are worth it are cut.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from typing import Literal

import torch
from torch import Tensor

Tiling = bool | Literal["auto"]
TILE = 64  # side in latents; 512 pixels, the size that the VAEs of Stable Diffusion were trained at or above
# "auto" cuts above this many pixels. No picture of a size that a model was made for comes above it, SDXL's 1024x1024
# included, so those stay exact; there the decoder's widest maps, 256 channels, take 1.1 GB each in float32.
AUTO_ABOVE = 1024 * 1024


def cuts(tiling: Tiling, height: int, width: int, downscale: int) -> bool:
    """Whether latents of height x width go through the VAE in tiles; one latent is `downscale` pixels wide."""
    if tiling == "auto":
        return height * width * downscale**2 > AUTO_ABOVE
    return tiling and max(height, width) > TILE


def blend_tiles(
    run: Callable[[slice, slice], Tensor], height: int, width: int, *, tile: int = TILE, scale: int = 1
) -> Tensor:
    """What `run` gives for every tile, linearly blended where tiles overlap, by at least a quarter of a tile.

    run(rows, columns): [B, C, scale * h, scale * w] of the h x w latents in those slices of height x width. All tiles
    have one shape, tile x tile unless the picture is narrower than that. tile: a multiple of 4; with a power of two the
    weights of a pixel sum to one exactly. Returns [B, C, scale * height, scale * width].
    """
    rows, columns = (_along(side, min(tile, side), tile // 4, scale) for side in (height, width))
    whole: Tensor | None = None
    for (row, down), (column, across) in product(rows, columns):
        part = run(row, column)
        if whole is None:
            whole = part.new_zeros(*part.shape[:2], scale * height, scale * width)
        weights = (down[:, None] * across).to(part)
        window = (..., slice(scale * row.start, scale * row.stop), slice(scale * column.start, scale * column.stop))
        whole[window] += weights * part
    assert whole is not None  # a picture has at least one tile
    return whole


def _along(length: int, tile: int, overlap: int, scale: int) -> list[tuple[slice, Tensor]]:
    """The tiles along one side: where each lies in latents, and its weights [scale * tile]."""
    starts = tile_starts(length, tile, overlap)
    # Two neighbours change places over `overlap` latents in the middle of what they share, away from their edges.
    ramps = [second + (first + tile - second - overlap) // 2 for first, second in pairwise(starts)]
    positions = torch.arange(scale * length, dtype=torch.float32) + 0.5
    # share[i]: how much of a position belongs to the tiles after the i-th. A tile's weight is what it takes from it.
    share = [((positions - scale * ramp) / (scale * overlap)).clamp(0, 1) for ramp in ramps]
    share = [torch.ones_like(positions), *share, torch.zeros_like(positions)]
    return [
        (slice(start, start + tile), (before - after)[scale * start : scale * (start + tile)])
        for start, before, after in zip(starts, share, share[1:], strict=False)
    ]


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin: as few as share `overlap` with their neighbour, evenly spread from end to end.

    Evenly, not with the last one shifted alone: then no position lies between three ramps.
    """
    spare, stride = length - tile, tile - overlap
    gaps = -(-spare // stride)
    return [round(i * spare / gaps) for i in range(gaps + 1)] if gaps else [0]
