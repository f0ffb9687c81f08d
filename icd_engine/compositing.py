"""Decoded pictures become what an edit returns: at the picture's own size, with the detail that the
VAE lost, and over the original where asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from icd_engine.feathering import bounds, ring_weights

STRIP = 256  # rows that are mixed at a time, so that few of them are held in floats
# Of 255, the greatest difference of a channel: up to SAME an edit shows what its picture does, and all
# detail is given back; from OTHER on it does not, and keeps its own.
SAME = 13
OTHER = 38


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

    def finished(i: int, values: np.ndarray) -> np.ndarray:
        values = _resized(values, size)
        if original is None or masks is None:
            return values
        return paste_back(original, values, masks[i], feather)

    return _each(pictures, finished)


def with_detail(
    pictures: Any,
    decoded: Any,
    original: Image.Image,
    reconstruction: Image.Image,
    share: float,
) -> Any:
    """Pictures at the original's size, and `share` of what the VAE and the size that the model works
    at have lost of it, wherever they show the same.

    decoded: the pictures as the VAE decodes them. reconstruction: the original, encoded and decoded
    by the VAE alone: what is missing in it is missing in every edit. Where that and an edit are alike
    (SAME, OTHER), original - reconstruction is added. In and out: see `finish`.
    """
    lost = Image.fromarray(_resized(np.asarray(reconstruction), original.size))
    alike = [_alike(one, reconstruction, share) for one in _in_bytes(decoded)]
    return _each(pictures, lambda i, values: _detailed(values, original, lost, alike[i]))


def _alike(edited: Image.Image, reconstruction: Image.Image, share: float) -> Image.Image:
    """How much of what is lost each pixel gets back, L: 255 is all of it. A pixel beside one that
    differs counts as that, and weights change smoothly, or detail would end in an edge."""
    red, green, blue = ImageChops.difference(edited, reconstruction).split()
    most = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    most = most.filter(ImageFilter.MaxFilter(3)).filter(ImageFilter.GaussianBlur(1))
    weights = np.clip((OTHER - np.arange(256)) / (OTHER - SAME), 0, 1)
    return most.point(np.rint(255 * share * weights).astype(int).tolist())


def _in_bytes(pictures: Any) -> list[Image.Image]:
    """Pictures of any output type as PIL pictures."""
    if isinstance(pictures, list):
        return pictures
    arrays = pictures
    if not isinstance(pictures, np.ndarray):
        arrays = np.asarray(pictures.permute(0, 2, 3, 1))
    return [Image.fromarray(np.rint(255 * one).astype(np.uint8)) for one in arrays]


def _detailed(
    edited: np.ndarray, original: Image.Image, reconstruction: Image.Image, weights: Image.Image
) -> np.ndarray:
    """[H, W, 3], all of the original's size but the weights."""
    top = 255 if edited.dtype == np.uint8 else 1.0
    shares = np.asarray(weights.resize(original.size, Image.Resampling.BILINEAR))
    own, decoded = (np.asarray(picture) for picture in (original, reconstruction))
    out = np.empty_like(edited)
    for start in range(0, len(out), STRIP):
        rows = slice(start, start + STRIP)
        lost = own[rows].astype(np.float32) - decoded[rows]
        share = shares[rows, :, None] * np.float32(top / 255**2)
        values = np.clip(edited[rows] + share * lost, 0, top)
        out[rows] = np.rint(values) if top == 255 else values
    return out


def _each(pictures: Any, change: Callable[[int, np.ndarray], np.ndarray]) -> Any:
    """Pictures of any output type, each changed as [H, W, 3] by its number."""
    if isinstance(pictures, list):
        return [Image.fromarray(change(i, np.asarray(one))) for i, one in enumerate(pictures)]
    if isinstance(pictures, np.ndarray):
        return np.stack([change(i, one) for i, one in enumerate(pictures)])
    changed = _each(pictures.permute(0, 2, 3, 1).numpy(), change)
    return pictures.new_tensor(changed.transpose(0, 3, 1, 2))


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
