"""Transparent pictures: their alpha beside colours that go on where nothing is to be seen."""

from __future__ import annotations

import numpy as np
from PIL import Image

from icd_engine.errors import ImageError


def parted(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """A picture without its transparency, and that as L; None where all of it is opaque.

    The first is what the picture holds, in a mode without alpha; see `filled` for what is seen.
    ImageError where it says nothing that can be read.
    """
    if not picture.has_transparency_data:
        return picture, None
    try:
        rgba = picture.convert("RGBA")
    except Exception:  # what a picture in memory says of a transparent colour may be anything
        raise ImageError(
            f"the transparency of this picture of mode {picture.mode} cannot be read"
        ) from None
    alpha = rgba.getchannel("A")
    colours = picture.getchannel("L") if picture.mode == "LA" else rgba.convert("RGB")
    colours.info = dict(picture.info)
    colours.info.pop("transparency", None)
    return colours, None if alpha.getextrema()[0] == 255 else alpha


def filled(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    """RGB, where alpha is 0 with the colours of the nearest visible pixels; white where none is.

    Networks see it. Colours of transparent pixels are mostly black, and a black or white hole in a
    picture spreads into what is beside it.
    """
    levels = [rgb.convert("RGBA")]
    levels[0].putalpha(alpha)
    while max(levels[-1].size) > 1:
        smaller = levels[-1].convert("RGBa").reduce(2).convert("RGBA")
        # Any colour that has been seen fills its cell: a mean of alpha would fade from level to level
        smaller.putalpha(smaller.getchannel("A").point([min(255, 4 * a) for a in range(256)]))
        levels.append(smaller)
    seen = Image.new("RGBA", (1, 1), "white")
    for level in reversed(levels):
        wide = seen.resize(level.size, Image.Resampling.BILINEAR)
        seen = Image.alpha_composite(wide, level)
    visible = alpha.point([0] + 255 * [255])
    return Image.composite(rgb, seen.convert("RGB"), visible)


def real_holes(alpha: np.ndarray) -> bool:
    """Whether a part of the pixels, and not a stray one, lets through more than it covers: 16 of them,
    or a tenth where there are few."""
    return bool(np.count_nonzero(alpha < 128) >= min(16, alpha.size / 10))
