"""Decoded pictures become what an edit returns: at the picture's own size, and over the original
where asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from icd_engine.feathering import bounds, ring_weights

STRIP = 256  # rows that are mixed at a time, so that few of them are held in floats


def finish(
    pictures: Any,
    size: tuple[int, int],
    original: Image.Image | None = None,
    masks: Sequence[np.ndarray] | np.ndarray | None = None,
    feather: float = 0.0,
) -> Any:
    """Pictures resized to `size` = (width, height), bicubic; those of that size as they are.

    pictures: a list of PIL RGB pictures, numpy [N, H, W, 3] or torch [N, 3, H, W] in [0, 1]; the
    same comes back. With the original (RGB, of that size) and a mask [H, W] for each picture:
    `paste_back`.
    """
    if _are_done(pictures, size) and (original is None or masks is None):
        return pictures
    each_mask = [None] * len(pictures) if masks is None else masks

    def each(values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        values = _resized(values, size)
        if original is None or mask is None:
            return values
        return paste_back(original, values, mask, feather)

    if isinstance(pictures, list):
        arrays = [
            each(np.asarray(picture), mask)
            for picture, mask in zip(pictures, each_mask, strict=True)
        ]
        return [Image.fromarray(values) for values in arrays]
    if isinstance(pictures, np.ndarray):
        return np.stack(
            [each(values, mask) for values, mask in zip(pictures, each_mask, strict=True)]
        )
    done = finish(pictures.permute(0, 2, 3, 1).numpy(), size, original, masks, feather)
    return pictures.new_tensor(done.transpose(0, 3, 1, 2))


def _are_done(pictures: Any, size: tuple[int, int]) -> bool:
    """Whether all have that size already."""
    if isinstance(pictures, list):
        return all(picture.size == size for picture in pictures)
    height, width = pictures.shape[1:3] if isinstance(pictures, np.ndarray) else pictures.shape[2:]
    return (width, height) == size


def paste_back(
    original: Image.Image, edited: np.ndarray, mask: np.ndarray, feather: float
) -> np.ndarray:
    """The original's own pixels where the mask is 0, the edit where it is not, faded in over a ring
    of `feather` pixels inside of it (`feathering.ring_weights`).

    edited: [H, W, 3], uint8 or float in [0, 1], of the original's size. mask: [H, W]; how great it
    is where it is not 0 does not matter, for the edit is as strong as that already.
    """
    kept = np.asarray(original)
    if edited.dtype != np.uint8:
        kept = kept.astype(np.float32) / np.float32(255)
    out = np.array(kept)
    box = bounds(mask)
    if box is None:
        return out
    weights = ring_weights(mask, feather)[box]
    own = out[box]
    new = edited[box]
    for top in range(0, len(own), STRIP):
        rows = slice(top, top + STRIP)
        own[rows] = _mixed(own[rows], new[rows], weights[rows, :, None])
    return out


def _mixed(kept: np.ndarray, edited: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """kept + weight (edited - kept), exact at 0 and at 1."""
    old = kept.astype(np.float32)
    mixed = old + weight * (edited - old)
    if edited.dtype == np.uint8:
        return np.rint(mixed).astype(np.uint8)
    return np.where(weight == 1, edited, mixed)


def _resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[H, W, 3], uint8 or float in [0, 1]."""
    if values.shape[1::-1] == size:
        return values
    if values.dtype == np.uint8:
        return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BICUBIC))
    channels = [
        Image.fromarray(channel) for channel in np.moveaxis(values.astype(np.float32), -1, 0)
    ]
    wide = [np.asarray(channel.resize(size, Image.Resampling.BICUBIC)) for channel in channels]
    return np.clip(np.stack(wide, axis=-1), 0, 1)
