"""Pictures as files, and what comes back of them."""

import io

import numpy as np
from PIL import Image

FORMATS = ["PNG", "JPEG", "WEBP"]


def encoded(picture: Image.Image | np.ndarray, file_format: str = "PNG", **options) -> bytes:
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def same(picture: Image.Image, expected: np.ndarray) -> bool:
    return picture.mode == "RGB" and np.array_equal(np.asarray(picture), expected)
