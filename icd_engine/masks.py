"""A user's mask: read, brought to the picture's size, and what it lets latents do in each hop."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from PIL import Image

from icd_engine.errors import ImageError
from icd_engine.images import array_values, as_rgb, checked_size, opened, unit_range, upright
from icd_engine.transparency import parted, real_holes

# What compressing and scaling leave of plain black and white in pictures: ringing beside edges.
NOISE = 1 / 16
ONE_COLOUR = 8  # of 255: strokes that differ by no more are one colour


def load_mask(
    mask: Any,
    size: tuple[int, int],
    given: tuple[int, int] | None = None,
    alpha: str | None = None,
) -> np.ndarray:
    """A user mask as float32 [h, w] in [0, 1] at `size` = (w, h): 0 is kept, 1 may change, between
    is strength (`by_hop`). Raises ImageError.

    Takes what `read_picture` takes, with one channel where it is an array. Integer masks whose maximum
    is 1 are read as 0/1. Of pictures, values within 1/16 of black and white are these, for that is
    what compressing and scaling leave beside edges; arrays are taken as they are. Of a palette of
    colours, index 0 is kept and all others may change (a label map).

    Where a real part of a picture is transparent (`transparency.real_holes`), its alpha is the mask, by
    `alpha`: "painted" (what covers may change) or "hole" (what is transparent may change: OpenAI's
    API). None: strokes of one colour are painted; anything else could mean either, and is refused.

    A mask of another size must have the aspect of `size` or of `given`, the picture before it was
    brought to `size`, to a pixel's rounding. One of 0 and 1 alone keeps these values: a pixel is 1
    where a larger mask touches it at all, and where a smaller one, bilinear, is at least a half.
    Others are averaged, or bilinear. A mask that lets nothing or everything change warns.
    """
    values = read_mask(mask, alpha)
    size = checked_size(size)
    given = given or size
    height, width = values.shape
    if not any(_is_scaled((width, height), one) for one in (given, size)):
        text = f"the mask is {width} x {height} and the picture {given[0]} x {given[1]}"
        turned = _is_scaled((height, width), given)
        hint = (
            "the picture is turned upright by its EXIF orientation: turn the mask in the same way"
            if turned
            else "give it the picture's shape (pictures are turned upright by their EXIF orientation, "
            "arrays and masks without it are not)"
        )
        raise ImageError(f"{text}: {hint}")
    for nothing, text in ((0, "nothing"), (1, "everything")):
        if (values == nothing).all():
            warnings.warn(f"the mask lets {text} change", stacklevel=2)
    return _resized(values, size)


def read_mask(mask: Any, alpha: str | None = None) -> np.ndarray:
    """The same at the mask's own size."""
    values = array_values(mask, "mask")
    if values is None:
        return _read_picture(upright(opened(mask, "mask")), alpha)
    if values.dtype.kind in "iu" and values.min() >= 0 and values.max() <= 1:
        values = values.astype(bool)
    return unit_range(values, "mask")[..., 0]


def _read_picture(picture: Image.Image, meaning: str | None) -> np.ndarray:
    colours, alpha = parted(picture)
    if alpha is not None and real_holes(np.asarray(alpha)):
        values = unit_range(np.asarray(alpha), "mask")
        meaning = meaning or _meaning(np.asarray(as_rgb(colours)), np.asarray(alpha))
        values = values if meaning == "painted" else 1 - values
    elif picture.mode == "P" and alpha is None and _is_labels(picture):
        values = (np.asarray(picture) > 0).astype(np.float32)
    else:
        grey = np.asarray(as_rgb(colours).convert("L"))
        values = (grey > 0).astype(np.float32) if grey.max() <= 1 else unit_range(grey, "mask")
    values[values < NOISE] = 0
    values[values > 1 - NOISE] = 1
    return values


def _meaning(colours: np.ndarray, alpha: np.ndarray) -> str:
    """Which part of a transparent mask may change. ImageError where it could be either: strokes are of
    one colour on nothing, a picture with a hole still holds its colours there."""
    parts = (colours[alpha >= 128], colours[alpha == 0])
    if all(not len(one) or np.ptp(one.astype(int), axis=0).max() <= ONE_COLOUR for one in parts):
        return "painted"
    raise ImageError(
        "a part of the mask is transparent, and that can mean two things: say "
        "mask_alpha='painted' (what is covered may change) or mask_alpha='hole' (what is "
        "transparent may change, as in OpenAI's API)"
    )


def _is_labels(picture: Image.Image) -> bool:
    """Whether a palette names things: it has colours, and what is used of it is not black and white."""
    palette = np.asarray(picture.getpalette("RGB") or []).reshape(-1, 3).astype(int)
    indices = np.unique(np.asarray(picture))
    used = palette[indices[indices < len(palette)]]
    in_greys = (np.ptp(used, axis=1) <= 2).all()
    black_and_white = in_greys and len(used) and used.min() <= 16 and used.max() >= 239
    return bool((np.ptp(palette, axis=1) > 2).any() and not black_and_white)


def _is_scaled(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether (width, height) are those of another picture, scaled and rounded to whole pixels."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(*one, *other)


def _resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[h, w] at `size` = (w, h): see `load_mask`."""
    width, height = size
    if values.shape == (height, width):
        return values
    hard = bool(np.isin(values, (0, 1)).all())
    shrinks = width <= values.shape[1] and height <= values.shape[0]
    if hard and shrinks:
        return touched(values, size)
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    resized = np.clip(np.asarray(Image.fromarray(values).resize(size, method)), 0, 1)
    return (resized >= 0.5).astype(np.float32) if hard else resized


def touched(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The greatest value in each cell of a grid of `size` = (columns, rows) that covers [h, w]; a
    pixel between two cells counts in both."""
    for axis, count in ((0, size[1]), (1, size[0])):
        length = values.shape[axis]
        rows = np.moveaxis(values, axis, 0)
        greatest = [
            rows[i * length // count : -(-(i + 1) * length // count)].max(axis=0)
            for i in range(count)
        ]
        values = np.stack(greatest, axis=axis)
    return values


def by_hop(strengths: np.ndarray, hops: int) -> np.ndarray:
    """What strengths [h, w] in [0, 1] let latents do after each of K hops: [K, h, w], 1 = free of
    their source, 0 = held to it.

    A cell of strength g is held for the first hops and free for the last round(g K), at least one
    where g > 0: the strength maps of differential diffusion (Levin & Fried, arXiv 2306.00950). Of
    1, that is every hop.
    """
    free = np.floor(strengths * hops + 0.5)
    free = np.where(strengths > 0, np.maximum(free, 1), 0)
    after = np.arange(hops, 0, -1).reshape(-1, 1, 1)  # hops from this one to the last
    return (after <= free).astype(np.float32)


def for_targets(
    mask: np.ndarray | None, cells: np.ndarray | None, targets: int, size: tuple[int, int]
) -> np.ndarray:
    """Where each target's picture of `size` = (w, h) may change: float32 [targets, h, w].

    mask: the user's [h, w]. cells: [targets, h', w'], where blend words have left latents free.
    They are grown by a cell, because decoders spread what latents hold by that. With both, both must
    agree.
    """
    width, height = size
    if cells is None:
        assert mask is not None
        return np.broadcast_to(mask, (targets, height, width))
    grown = np.stack([enlarged(_grown(one), size) for one in cells])
    return grown if mask is None else np.where(grown > 0, mask, np.float32(0))


def _grown(cells: np.ndarray) -> np.ndarray:
    """[h, w]: 1 where a cell or one beside it is not 0."""
    height, width = cells.shape
    padded = np.pad(cells > 0, 1)
    beside = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.any(beside, axis=0).astype(np.float32)


def enlarged(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cells [h', w'] as pixels [h, w] of `size` = (w, h), each of the cell that its first corner lies
    in."""
    rows, columns = (
        np.arange(length) * count // length
        for length, count in zip(size[::-1], cells.shape, strict=True)
    )
    return cells[rows[:, None], columns]
