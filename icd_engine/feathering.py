"""How an edit fades into the picture around it: inside of its mask only, over a ring."""

from __future__ import annotations

from math import ceil

import numpy as np

# A pixel is at the middle of a thin part where distances to the outside rise by less than this in
# every direction. They rise by 1 a pixel across a ring, by 0.7 towards a square corner.
LEVEL = 0.5
STRIP = 1 << 16  # pixels that are worked at together: their distances stay in the cache


def ring_weights(mask: np.ndarray, feather: float) -> np.ndarray:
    """The share of the edit in every pixel: float32 [h, w], 0 exactly where the mask [h, w] is.

    It rises over the ring, as the distance to the outside does, to 1 at `feather` pixels. Where a
    part of the mask is less than four rings thick they shrink, so that half of it stays 1. Beyond
    the picture's border is no outside. How great a mask is where it is not 0 does not matter.
    """
    weights = (mask > 0).astype(np.float32)
    box = bounds(mask)
    if feather > 1 and box is not None and not weights.all():
        weights[box] = _ring(weights[box] > 0, feather)
    return weights


def bounds(mask: np.ndarray) -> tuple[slice, slice] | None:
    """The rows and columns of [h, w] where it is not 0, and one more on each side; None where it is
    0 everywhere."""
    spans = []
    for axis in (1, 0):
        held = np.flatnonzero((mask > 0).any(axis=axis))
        if not len(held):
            return None
        spans.append(slice(max(0, int(held[0]) - 1), int(held[-1]) + 2))
    return spans[0], spans[1]


def _ring(inside: np.ndarray, feather: float) -> np.ndarray:
    """`ring_weights` of a mask that is true or false, and false somewhere."""
    thick = 2 * feather  # from the edge to the middle, of a part that has room for its rings
    depth = distances(inside, thick + 2)
    middle = _middles(depth, thick)
    ring = np.float32(feather)
    if middle.any():
        half = depth + distances(~middle, thick)  # about how thick it is from edge to middle
        ring = np.clip(half / 2, np.float32(1), ring)
    return np.minimum(depth / ring, 1)


def _middles(depth: np.ndarray, thick: float) -> np.ndarray:
    """The middles of parts that are less than `thick` from edge to middle; depth: of each pixel in
    the mask, at most a little more than that."""
    height, width = depth.shape
    padded = np.pad(depth, 1, constant_values=-np.inf)
    middle = (depth > 0) & (depth < thick)
    for down in range(3):
        for right in range(3):
            if (down, right) == (1, 1):
                continue
            step = np.float32(np.hypot(down - 1, right - 1))
            neighbour = padded[down : down + height, right : right + width]
            middle &= neighbour - depth <= np.float32(LEVEL) * step
    if middle.any():
        # Bumps of an edge are thin, too, but lie beside what is not.
        middle &= distances(depth < thick, thick + 2) >= thick + 1
    return middle


def distances(inside: np.ndarray, most: float) -> np.ndarray:
    """Of every true pixel of [h, w] the Euclidean distance to the nearest false one, at most `most`
    pixels; 0 for false ones. Exact up to there (float32 [h, w])."""
    reach = ceil(most)
    above = _column_distances(inside, reach)
    below = _column_distances(inside[::-1], reach)[::-1]
    kind = np.uint16 if 2 * reach**2 < 2**16 else np.uint32
    columns = np.minimum(above, below).astype(kind) ** 2
    rows = max(1, STRIP // max(1, inside.shape[1]))
    out = np.empty(inside.shape, dtype=np.float32)
    for top in range(0, len(inside), rows):
        strip = columns[top : top + rows]
        nearest = strip.copy()
        for k in range(1, min(reach, strip.shape[1] - 1) + 1):
            further = strip + kind(k * k)
            np.minimum(nearest[:, k:], further[:, :-k], out=nearest[:, k:])
            np.minimum(nearest[:, :-k], further[:, k:], out=nearest[:, :-k])
        out[top : top + rows] = np.sqrt(nearest, dtype=np.float32)
    return np.minimum(out, np.float32(most))


def _column_distances(inside: np.ndarray, reach: int) -> np.ndarray:
    """Rows up to the nearest false pixel above, at most `reach`: int32 [h, w]."""
    row = np.arange(len(inside), dtype=np.int32)[:, None]
    last = np.maximum.accumulate(np.where(inside, np.int32(-reach), row), axis=0)
    return np.minimum(row - last, np.int32(reach))
