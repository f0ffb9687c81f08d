"""Masks from words: where attention looks, refined by how the picture hangs together, and cut at the
picture's own resolution.

Maps of words are coarse and leave holes. What belongs together attends to itself, so the source's
self-attention A fills a map m up to its object (A^p m, as in Nguyen et al., Dataset Diffusion, arXiv
2309.14303), and the guided filter (He, Sun, Tang: Guided Image Filtering, ECCV 2010) takes its edges
from the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from icd_engine.feathering import distances

MOST_POSITIONS = 4096  # of a map: A has their square
POWER = 2
# Chosen on 40 edits of the embedded world, whose true masks are known; as are those that follow
LEVEL = 0.4  # of a map in 0..1 that is in the mask
EVEN = 0.3  # share of its greatest value by which a map falls off, unless it is about even
SCALE = 8  # pixels of the guide for each position of a map; sums of it are the picture's own
RADIUS = 12  # of the guided filter's windows, pixels of that guide
SMOOTH = 1e-3  # variance of colours in 0..1 that counts as an edge

Floats = np.ndarray


def word_mask(
    maps: Floats,
    attention: Floats | None,
    picture: Image.Image | None,
    edited: Floats | None,
    size: tuple[int, int],
) -> np.ndarray:
    """bool [H, W] of `size` = (W, H): where the words of source or target are.

    maps: [2, h, w], attention to the words of the source and of the target prompt. attention:
    [h w, h w], the source's self-attention (`self_attention`), None where it is not known. picture:
    the source, RGB of that size. edited: the edit, [H, W, 3], uint8 or float in 0..1. Without one of
    them, its map is enlarged without a guide. A map that is about even and yet takes most of the
    picture says nothing and is left out; where both are, all is true.
    """
    source, target = maps
    guides = (None if picture is None else np.asarray(picture), edited)
    if attention is not None:
        source = _spread(source, attention, POWER)
        # The target's words are where the edit is, which the source's attention knows half of.
        target = _unit(target) + _unit(_spread(target, attention, 1))
    found = []
    for own, guide in zip((source, target), guides, strict=True):
        mask = cut(_unit(own), guide, size)
        rise = float(own.max() - own.min())
        if rise > EVEN * own.max() or (rise > 0 and mask.mean() < 0.5):
            found.append(mask)
    return np.any(found, axis=0) if found else np.ones(size[::-1], dtype=bool)


def self_attention(blocks: Sequence[tuple[Floats, Floats]]) -> Floats:
    """[N, N]: the mean over blocks and heads of softmax(Q K^T / sqrt(d)) of Q and K [heads, N, d]."""
    total = np.zeros((blocks[0][0].shape[1],) * 2, dtype=np.float32)
    count = 0
    for q, k in blocks:
        for own_q, own_k in zip(q, k, strict=True):
            scores = own_q @ own_k.T / np.float32(own_q.shape[-1] ** 0.5)
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            total += scores / scores.sum(axis=1, keepdims=True)
            count += 1
    return total / np.float32(count)


def cut(own: Floats, guide: Floats | None, size: tuple[int, int]) -> np.ndarray:
    """A map [h, w] in 0..1 at `size` = (W, H) as true and false, [H, W], along the edges of a
    picture [H, W, 3], uint8 or float in 0..1."""
    if guide is None:
        return _scaled(own, size) > LEVEL
    colours = guide.astype(np.float32) / np.float32(255 if guide.dtype == np.uint8 else 1)
    height, width = own.shape
    small = (min(size[0], SCALE * width), min(size[1], SCALE * height))
    slopes, offset = _linear(_scaled(own, small), _each(colours, small))
    filtered = _scaled(offset, size)
    for channel in range(3):
        filtered += _scaled(slopes[..., channel], size) * colours[..., channel]
    return filtered > LEVEL


def grown(mask: np.ndarray, by: float) -> np.ndarray:
    """A mask [H, W] of true and false with all that lies within `by` pixels of it."""
    return mask | (distances(~mask, by + 1) <= by)


def _spread(own: Floats, attention: Floats, power: int) -> Floats:
    """A^power m of a map [h, w]."""
    flat = own.reshape(-1)
    for _ in range(power):
        flat = attention @ flat
    return flat.reshape(own.shape)


def _unit(own: Floats) -> Floats:
    """A map brought to 0..1."""
    low = own.min()
    return (own - low) / max(float(own.max() - low), 1e-12)


def _scaled(own: Floats, size: tuple[int, int]) -> Floats:
    picture = Image.fromarray(np.ascontiguousarray(own, dtype=np.float32))
    return np.array(picture.resize(size, Image.Resampling.BILINEAR))


def _each(colours: Floats, size: tuple[int, int]) -> Floats:
    return np.stack([_scaled(colours[..., channel], size) for channel in range(3)], axis=-1)


def _linear(own: Floats, guide: Floats) -> tuple[Floats, Floats]:
    """The guided filter's local linear model of a map [h, w] in the colours of a guide [h, w, 3]:
    slopes [h, w, 3] and offset [h, w]."""
    mean = _windows(guide)
    own_mean = _windows(own)
    products = guide[..., :, None] * guide[..., None, :]
    covariance = _windows(products) - mean[..., :, None] * mean[..., None, :]
    shared = _windows(guide * own[..., None]) - mean * own_mean[..., None]
    slopes = np.linalg.solve(
        covariance + np.float32(SMOOTH) * np.eye(3, dtype=np.float32), shared[..., None]
    )[..., 0]
    offset = own_mean - (slopes * mean).sum(axis=-1)
    return _windows(slopes), _windows(offset)


def _windows(values: Floats) -> Floats:
    """Means of [h, w, ...] over the windows of RADIUS around every pixel, cut at the border."""
    for axis in (0, 1):
        length = values.shape[axis]
        sums = np.cumsum(np.moveaxis(values, axis, 0), axis=0, dtype=np.float64)
        sums = np.concatenate([np.zeros_like(sums[:1]), sums])
        place = np.arange(length)
        last = np.minimum(place + RADIUS + 1, length)
        first = np.maximum(place - RADIUS, 0)
        counts = (last - first).reshape(-1, *[1] * (values.ndim - 1))
        values = np.moveaxis((sums[last] - sums[first]) / counts, 0, axis)
    return values
