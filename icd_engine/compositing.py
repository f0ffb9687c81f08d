"""Decoded pictures become what an edit returns: at the picture's own size, and over the original
where asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageFilter


def finish(
    pictures: Any,
    size: tuple[int, int],
    original: Image.Image | None = None,
    masks: Sequence[np.ndarray] | None = None,
) -> Any:
    """Pictures resized to `size` = (width, height), bicubic; those of that size as they are.

    pictures: a list of PIL RGB pictures, numpy [N, H, W, 3] or torch [N, 3, H, W] in [0, 1]; the
    same comes back. With the original (RGB, of that size) and a mask [h, w] for each picture, 1 =
    edited: `paste_back`.
    """
    if _are_done(pictures, size) and (original is None or masks is None):
        return pictures
    each_mask: Sequence[np.ndarray | None] = masks or [None] * len(pictures)

    def each(values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        values = _resized(values, size)
        return values if original is None or mask is None else paste_back(original, values, mask)

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
    done = finish(pictures.permute(0, 2, 3, 1).numpy(), size, original, masks)
    return pictures.new_tensor(done.transpose(0, 3, 1, 2))


def _are_done(pictures: Any, size: tuple[int, int]) -> bool:
    """Whether all have that size already."""
    if isinstance(pictures, list):
        return all(picture.size == size for picture in pictures)
    height, width = pictures.shape[1:3] if isinstance(pictures, np.ndarray) else pictures.shape[2:]
    return (width, height) == size


def paste_back(original: Image.Image, edited: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The original's own pixels outside the mask, the edit inside it, blended in a ring of about
    one cell between.

    edited: [H, W, 3], uint8 or float in [0, 1]. mask: [h, w] in [0, 1] in cells of the latents.
    Grown by a cell before it is enlarged, so that every masked pixel is wholly edited: decoders
    spread what latents hold by a cell.
    """
    grown = Image.fromarray(np.rint(255 * np.clip(mask, 0, 1)).astype(np.uint8)).filter(
        ImageFilter.MaxFilter(3)
    )
    share = grown.resize(original.size, Image.Resampling.BILINEAR)
    weight = np.asarray(share, dtype=np.float32)[..., None] / np.float32(255)
    kept = np.asarray(original, dtype=np.float32)
    if edited.dtype == np.uint8:
        return np.rint(kept + weight * (edited - kept)).astype(np.uint8)
    kept /= np.float32(255)
    return kept + weight * (edited - kept)


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
