"""Any picture in, upright sRGB out: limits, orientation, modes; network range both ways."""

import os
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from icd_engine import metadata
from icd_engine.colour import as_srgb, grey_curve, srgb_profile
from icd_engine.errors import ImageError, shown
from icd_engine.picture_files import (
    MAX_PIXELS,
    MEGA,
    check_pixels,
    decoded,
    from_file,
    limit,
    read_file,
    read_stream,
)
from icd_engine.transparency import filled, parted

_ROUNDING = 1e-5  # what float arithmetic may leave outside [0, 1]
_CHANNELS = {"picture": (1, 3, 4), "mask": (1,)}
_UPRIGHT = {  # EXIF orientation -> the turn that makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_picture(image: Any) -> Image.Image:
    """One picture of any kind as a new, upright PIL picture in sRGB: RGB, or RGBA where some of it is
    transparent. Its `info` holds what `metadata.read` finds, and the sRGB profile. What is read so may
    be read again: it stays as it is.

    `image`: a path (of a pipe, too), the bytes of a file or a binary file object (a URL is refused), a PIL picture, a
    numpy array (HW, HWC or CHW; where both fit it is HWC) or a torch tensor (HW or CHW). Files are
    PNG, JPEG, WEBP, AVIF, TIFF, GIF, BMP, and HEIC where pillow-heif is installed; of several frames
    the first is read, with a warning. Arrays have 1, 3 or 4 channels, may have a batch axis of 1, and
    hold bool, uint8, uint16 or floats in [0, 1]. At most `limit("PIXELS")` pixels, in any aspect.
    Colours are brought to sRGB by `colour.as_srgb`. Raises ImageError.
    """
    picture = opened(image, "picture")
    about = metadata.read(picture)
    picture, alpha = parted(upright(picture))
    rgb = as_rgb(picture)
    if alpha is not None:
        rgb = filled(rgb, alpha)
        rgb.putalpha(alpha)
    rgb.info = {**about, "icc_profile": srgb_profile()}
    return rgb


def load_image(image: Any) -> Image.Image:
    """What networks see of `read_picture`: mode RGB, without its transparency and metadata."""
    return opaque(read_picture(image))[0]


def opaque(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """A picture of `read_picture` as RGB without metadata, and its alpha as L, where it has one."""
    rgb = picture.convert("RGB") if picture.mode == "RGBA" else picture.copy()
    rgb.info = {}
    return rgb, picture.getchannel("A") if picture.mode == "RGBA" else None


def to_size(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """RGB picture -> uint8 [1, h, w, 3]; bicubic to `size` = (w, h) if it differs."""
    if picture.mode != "RGB":
        raise ImageError(f"expected an RGB picture, got mode {picture.mode}: use load_image first")
    size = checked_size(size)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    return np.array(picture)[None]


def to_model_range(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """RGB picture -> float32 [1, 3, h, w] in [-1, 1], `x / 127.5 - 1`; bicubic to `size` = (w, h)
    if it differs."""
    pixels = to_size(picture, size).astype(np.float32) / np.float32(127.5) - np.float32(1)
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def to_pil(array: Any) -> Image.Image:
    """Float [3, h, w] in [-1, 1] -> PIL RGB, clipped, rounded to the nearest value.

    NaN or Inf: ImageError.
    """
    values = np.asarray(array)
    if values.ndim != 3 or values.shape[0] != 3 or values.size == 0 or values.dtype.kind != "f":
        raise ImageError(
            f"expected floats of shape [3, h, w], got {values.dtype} of shape {list(values.shape)}"
        )
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise ImageError("the picture holds NaN or infinite values")
    pixels = np.rint((np.clip(values, -1, 1) + 1) * np.float32(127.5)).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def psnr(one: Any, other: Any, where: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of two RGB pictures of one size with values 0 to 255, PIL or
    [h, w, 3], over the pixels `where` [h, w] is true (default: all)."""
    error = (np.asarray(one, np.float64) - np.asarray(other, np.float64)) ** 2
    if where is not None:
        error = error[where]
    return float(-10 * np.log10(max(error.mean(), 1e-9) / 255**2))


def checked_size(size: Any) -> tuple[int, int]:
    try:
        width, height = (int(n) for n in size)
        whole = (width, height) == tuple(size)
    except (TypeError, ValueError, OverflowError):
        raise ImageError(f"size must be (width, height), got {shown(size)}") from None
    most = limit("PIXELS", MAX_PIXELS)
    if not whole or min(width, height) < 1 or width * height > most:
        raise ImageError(
            f"size must be two whole numbers from 1, at most {most / MEGA:g} megapixels, got "
            f"{shown(size)}"
        )
    return width, height


def opened(image: Any, what: str) -> Image.Image:
    """The picture as its kind gives it: any mode, not yet upright, pixels decoded."""
    if isinstance(image, Image.Image):
        return decoded(image, what)
    if isinstance(image, (str, os.PathLike)):
        return from_file(read_file(os.fsdecode(image), what), what)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return from_file(bytes(image), what)
    if callable(getattr(image, "read", None)):
        return from_file(read_stream(image, what), what)
    values = array_values(image, what)
    if values is None:
        raise ImageError(
            f"cannot read a {what} from {type(image).__name__}: give a path, bytes, PIL picture or array"
        )
    return _from_array(values, what)


def upright(picture: Image.Image) -> Image.Image:
    try:
        turn = _UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF says nothing about the pixels
        turn = None
    return picture if turn is None else picture.transpose(turn)


def as_rgb(picture: Image.Image) -> Image.Image:
    """Any opaque mode -> sRGB without metadata; 16 bits are scaled, F is in [0, 1]."""
    if picture.mode == "F":
        picture = _from_array(np.asarray(picture)[..., None], "picture")
    elif picture.mode.startswith("I;16"):
        picture = _from_sixteen_bits(picture)
    elif picture.mode == "I":
        raise ImageError("pictures of mode I have no fixed range: convert to L or I;16 first")
    try:
        rgb = as_srgb(picture)
    except Exception:
        raise ImageError(f"cannot convert a picture of mode {picture.mode} to RGB") from None
    rgb.info = {}  # an orientation left here would turn the picture twice
    return rgb


def _from_sixteen_bits(picture: Image.Image) -> Image.Image:
    """Grey, by its profile before it is rounded to 8 bits."""
    values = np.asarray(picture)[..., None]
    curve = grey_curve(picture.info.get("icc_profile"))
    if curve is None:
        return _from_array(values, "picture")
    levels = np.interp(values / np.float32(257), np.arange(256), curve)
    return Image.fromarray(np.rint(levels[..., 0]).astype(np.uint8))


def array_values(image: Any, what: str) -> np.ndarray | None:
    """A numpy array or torch tensor as [h, w, channels], values untouched; None for every other
    kind."""
    if isinstance(image, np.ndarray):
        return _channels_last(np.asarray(image), last=True, what=what)
    # Looked up by name: torch need not be installed
    if not type(image).__module__.startswith("torch"):
        return None
    try:
        tensor = image.detach().cpu()
        # Numpy has no bfloat16
        values = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    except Exception:
        raise ImageError(f"cannot read a {what} from {type(image).__name__}") from None
    return _channels_last(values, last=False, what=what)


def _channels_last(values: np.ndarray, last: bool, what: str) -> np.ndarray:
    shape = list(values.shape)
    channels = _CHANNELS[what]
    if values.ndim == 4 and shape[0] == 1:
        values = values[0]
    elif values.ndim == 4 and shape[0] > 1:
        raise ImageError(f"a batch of {shape[0]}: give one {what} at a time")
    if values.ndim == 2:
        values = values[..., None]
    elif values.ndim == 3 and not (last and values.shape[-1] in channels):
        values = np.moveaxis(values, 0, -1)
    if values.ndim != 3 or values.shape[-1] not in channels:
        counts = "1, 3 or 4 channels" if what == "picture" else "1 channel"
        kinds = (
            "[h, w], [h, w, channels] or [channels, h, w]" if last else "[h, w] or [channels, h, w]"
        )
        raise ImageError(f"a {what} is {kinds} with {counts}, got shape {shape}")
    check_pixels(values.shape[1], values.shape[0], what)
    return values


def _from_array(values: np.ndarray, what: str) -> Image.Image:
    """[h, w, channels] -> PIL L, RGB or RGBA, rounded to 8 bits."""
    if values.dtype != np.uint8:
        values = np.rint(unit_range(values, what) * np.float32(255)).astype(np.uint8)
    return Image.fromarray(
        np.ascontiguousarray(values[..., 0] if values.shape[-1] == 1 else values)
    )


def unit_range(values: np.ndarray, what: str) -> np.ndarray:
    """bool, uint8, uint16 or floats in [0, 1] -> float32 in [0, 1]."""
    if values.dtype.kind == "b":
        return values.astype(np.float32)
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
    if values.dtype.kind != "f":
        raise ImageError(
            f"a {what} array holds bool, uint8, uint16 or floats in [0, 1], got {values.dtype}"
        )
    if not np.isfinite(values).all():
        raise ImageError(f"the {what} array holds NaN or infinite values")
    low = float(values.min())
    high = float(values.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        hint = (
            "for [-1, 1] give (x + 1) / 2" if low >= -1 and high <= 1 else "for 0..255 give uint8"
        )
        raise ImageError(f"{what} floats must be in [0, 1], got {low:.4g} to {high:.4g}: {hint}")
    return np.clip(values, 0, 1).astype(np.float32)
