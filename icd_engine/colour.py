"""Colours of a picture in sRGB, which networks are trained on and results are in: by the profile that a
file holds, or by what it says of gamma and primaries."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms

SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}  # a profile's, and Pillow's mode
SAME = 1  # of 255: a profile that moves no colour further is sRGB, and pixels stay as they are
STRIP = 256  # rows that are held in floats at a time

# CIE x and y of white, red, green and blue, as PNG's cHRM has them
Primaries = Sequence[float]
SRGB: Primaries = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
ADOBE_RGB: Primaries = (0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
ADOBE_GAMMA = 256 / 563
USUAL_GAMMA = 1 / 2.2  # files mean sRGB's own curve by it
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


@cache
def srgb_profile() -> bytes:
    """The ICC profile that results carry."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[24:36] = b"\x07\xd0\0\x01\0\x01\0\0\0\0\0\0"  # its date: today's would change every file
    return bytes(data)


def as_srgb(picture: Image.Image) -> Image.Image:
    """An opaque picture of any 8-bit mode as sRGB, mode RGB.

    What counts is an ICC profile; else PNG's gAMA and cHRM, unless the file says sRGB; else the Exif
    mark R03 of cameras, which is Adobe RGB. A profile that cannot be used is ignored with a warning.
    Perceived black and white are kept (relative colorimetric, black point compensation).
    """
    profile = picture.info.get("icc_profile")
    if profile and profile != srgb_profile():
        done = _by_profile(picture, profile)
        if done is not None:
            return done
    rgb = picture.convert("RGB")
    stated = None if profile else _stated(picture)
    if stated is None:
        return rgb
    return _by_primaries(rgb, *stated)


def grey_curve(profile: bytes | None) -> np.ndarray | None:
    """What a profile makes of 256 greys, uint8 [256], for pictures of more bits; None where there is
    none that changes them."""
    done = _by_profile(_samples("L"), profile) if profile else None
    curve = _samples("L") if done is None else done.getchannel("G")
    values = np.asarray(curve)[0]
    return None if np.array_equal(values, np.arange(256)) else values


def _by_profile(picture: Image.Image, data: bytes) -> Image.Image | None:
    try:
        profile: Any = ImageCms.ImageCmsProfile(io.BytesIO(data))
        mode = SPACES[profile.profile.xcolor_space.strip()]
        own = picture if picture.mode == mode else _in_space(picture, mode)
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        # Once for each grey, so it may take its time: littleCMS's tables are coarse
        if mode == "L":
            flags |= ImageCms.Flags.NOOPTIMIZE
        transform = ImageCms.buildTransform(
            profile,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags,
        )
        if mode in ("RGB", "L"):
            tried = _samples(mode)
            moved = ImageCms.applyTransform(tried, transform)
            away = np.asarray(moved).astype(int) - np.asarray(tried.convert("RGB"))
            if np.abs(away).max() <= SAME:
                return own.convert("RGB")
            if mode == "L":
                grey = own.point(np.asarray(moved)[0, :, 1].tolist())
                return grey.convert("RGB")
        return ImageCms.applyTransform(own, transform)
    except Exception:  # littleCMS and Pillow raise their own of many kinds
        warnings.warn(
            "the picture's colour profile is damaged or of another kind than its pixels: it is "
            "ignored, and colours are read as sRGB",
            stacklevel=2,
        )
        return None


def _in_space(picture: Image.Image, mode: str) -> Image.Image:
    """Another mode of the same colours. ValueError where colours would be made up."""
    grey = picture.mode in ("1", "L")
    if (mode == "RGB" and picture.mode in ("P", "YCbCr", "HSV")) or (mode in ("RGB", "L") and grey):
        return picture.convert(mode)
    raise ValueError(f"a profile for {mode} on a picture of mode {picture.mode}")


def _samples(mode: str) -> Image.Image:
    """Colours all over the space."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1)
    return Image.fromarray(grid.reshape(27, 27, 3))


# --- without a profile ----------------------------------------------------------------------------


def _stated(picture: Image.Image) -> tuple[float, Primaries] | None:
    """Gamma of the file (light ** gamma) and primaries, where they are not sRGB's."""
    info = picture.info
    gamma = info.get("gamma")
    primaries = info.get("chromaticity")
    if "srgb" in info or (gamma is None and primaries is None):
        return (ADOBE_GAMMA, ADOBE_RGB) if _is_adobe(picture) else None
    gamma = gamma or USUAL_GAMMA
    primaries = primaries or SRGB
    usual = abs(gamma - USUAL_GAMMA) < 0.01
    if not 0.1 < gamma < 10 or (usual and np.allclose(primaries, SRGB, atol=2e-3)):
        return None
    return gamma, primaries


def _is_adobe(picture: Image.Image) -> bool:
    try:
        return picture.getexif().get_ifd(ExifTags.IFD.Interop).get(1) == "R03"
    except Exception:  # broken EXIF says nothing about the colours
        return False


def _by_primaries(picture: Image.Image, gamma: float, primaries: Primaries) -> Image.Image:
    levels = np.arange(256) / 255
    usual = abs(gamma - USUAL_GAMMA) < 0.01
    light = (_linear(levels) if usual else levels ** (1 / gamma)).astype(np.float32)
    try:
        matrix = np.linalg.solve(_to_xyz(SRGB), _to_xyz(primaries)).astype(np.float32)
    except np.linalg.LinAlgError:
        return picture
    if not np.isfinite(matrix).all():
        return picture
    pixels = np.array(picture)
    for top in range(0, len(pixels), STRIP):
        rows = slice(top, top + STRIP)
        moved = np.clip(light[pixels[rows]] @ matrix.T, 0, 1)
        pixels[rows] = np.rint(255 * _encoded(moved))
    return Image.fromarray(pixels)


def _to_xyz(primaries: Primaries) -> np.ndarray:
    """Linear RGB -> XYZ as seen under sRGB's white (Bradford)."""
    white, *colours = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in _pairs(primaries))
    own = np.stack(colours, axis=1)
    own = own * np.linalg.solve(own, white)
    wanted = np.array([SRGB[0] / SRGB[1], 1, (1 - SRGB[0] - SRGB[1]) / SRGB[1]])
    adapted = np.diag((BRADFORD @ wanted) / (BRADFORD @ white))
    return np.linalg.inv(BRADFORD) @ adapted @ BRADFORD @ own


def _pairs(values: Primaries) -> list[np.ndarray]:
    """x and y of each. A y of 0 becomes NaN, and so do all colours made of it: no file's are used."""
    pairs = np.array(values, dtype=np.float64).reshape(-1, 2)
    pairs[pairs[:, 1] == 0] = np.nan
    return list(pairs)


def _linear(values: np.ndarray) -> np.ndarray:
    """sRGB's curve (IEC 61966-2-1), [0, 1] to light."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _encoded(light: np.ndarray) -> np.ndarray:
    """The same back."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
