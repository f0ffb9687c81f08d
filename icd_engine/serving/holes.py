"""A picture that is transparent where it is to be edited, as OpenAI's API takes it in place of a mask."""

from __future__ import annotations

import numpy as np
from PIL import Image

from icd_engine.images import as_rgb, opaque, opened, upright
from icd_engine.transparency import parted, real_holes

HOLE = "the picture is edited where it is transparent; with a mask or keep_alpha its transparency is its own"
PLAIN = 8  # of 255: colours under transparency that differ by no more are no picture


def without_hole(file: bytes, picture: Image.Image) -> tuple[Image.Image, np.ndarray | None]:
    """A picture that was read from a file, opaque, and a mask [h, w] in [0, 1] of where it was
    transparent; as it is, and None, where no real part of it is.

    Under transparency it shows what the file still holds there, which is what most editors leave; where
    that is one colour, what is beside it.
    """
    seen, alpha = opaque(picture)
    if alpha is None or not real_holes(np.asarray(alpha)):
        return picture, None
    values = np.asarray(alpha)
    held = as_rgb(parted(upright(opened(file, "picture")))[0])
    hidden = np.asarray(held)[values == 0].astype(int)
    if len(hidden) and np.ptp(hidden, axis=0).max() > PLAIN:
        seen = held
    seen.info = dict(picture.info)
    return seen, 1 - values.astype(np.float32) / 255
