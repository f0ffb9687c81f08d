"""An imperceptible mark in the pixels that a model made the picture, which stays where metadata are
lost. It is RivaGAN's, by the library `invisible-watermark`."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from math import comb
from typing import Any

import numpy as np
from PIL import Image

from icd_engine.errors import ImageError, RunnerError

LEAST_PIXELS = 256 * 256  # the library takes no smaller picture
MESSAGE = (
    b"iCD\x01"  # 32 bits, the same in every picture: it says what made it, and nothing of whom
)
LENGTH = 32
ENOUGH = 26  # bits: a picture without the mark has as many once in 3,800 times


def require() -> None:
    """RunnerError unless what marks pictures is installed."""
    missing = [name for name in ("imwatermark", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise RunnerError(
            "watermarks need invisible-watermark: pip install 'icd-engine[watermark]'"
        )


def marked(picture: Image.Image) -> Image.Image:
    """A copy of an RGB or RGBA picture with the mark; transparency stays. It is read back at once, and
    a warning says where it cannot be, as in flat drawings. ImageError where the picture is too small or
    of another mode, RunnerError."""
    _check(picture)
    if picture.mode not in ("RGB", "RGBA"):
        raise ImageError(f"a picture of mode {picture.mode} cannot be marked: convert it to RGB")
    encoder = _library().WatermarkEncoder(MESSAGE)
    encoder.loadModel()
    changed = encoder.encode(_bgr(picture), "rivaGan")
    done = Image.fromarray(np.ascontiguousarray(changed[..., ::-1]))
    if picture.mode == "RGBA":
        done.putalpha(picture.getchannel("A"))
    done.info = dict(picture.info)
    if not is_marked(done):
        warnings.warn("the watermark cannot be read back from this picture", stacklevel=2)
    return done


def bits_found(picture: Image.Image) -> int:
    """How many of the mark's 32 bits a picture holds; 16 are chance. ImageError, RunnerError."""
    _check(picture)
    decoder = _library().WatermarkDecoder("bits", LENGTH)
    decoder.loadModel()
    found = np.asarray(decoder.decode(_bgr(picture), "rivaGan"))
    return int((found == np.unpackbits(np.frombuffer(MESSAGE, np.uint8))).sum())


def is_marked(picture: Image.Image) -> bool:
    """Whether a picture holds the mark. ImageError, RunnerError."""
    return bits_found(picture) >= ENOUGH


def by_chance(bits: int) -> float:
    """How often so many bits or more are right where every one is thrown."""
    return sum(comb(LENGTH, n) for n in range(bits, LENGTH + 1)) / 2**LENGTH


def _check(picture: Image.Image) -> None:
    if picture.width * picture.height < LEAST_PIXELS:
        raise ImageError(
            f"a picture of {picture.width} x {picture.height} is too small for a watermark: it needs "
            f"{LEAST_PIXELS:,} pixels"
        )


def _bgr(picture: Image.Image) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(picture.convert("RGB"))[..., ::-1])


def _library() -> Any:
    require()
    import imwatermark  # pyright: ignore[reportMissingImports]

    return imwatermark
