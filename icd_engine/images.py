"""Any picture in, RGB out: limits, orientation, modes; network range both ways."""

import io
import os
import re
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from icd_engine.errors import ImageError, shown

MAX_FILE_BYTES = 64 * 2**20
MAX_PIXELS = 32_000_000
FORMATS = ("PNG", "JPEG", "WEBP")

_ROUNDING = 1e-5  # what float arithmetic may leave outside [0, 1]
_CHANNELS = {"picture": (1, 3, 4), "mask": (1,)}
_PNG_END = b"IEND\xaeB`\x82"
_UPRIGHT = {  # EXIF orientation -> the turn that makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(image: Any) -> Image.Image:
    """One picture of any kind as a new, upright PIL RGB picture that carries pixels and no
    metadata.

    `image`: a path (of a pipe, too), the bytes of a file or a binary file object (PNG, JPEG or WEBP; at most 64 MiB
    and 32 megapixels; a URL is refused), a PIL picture, a numpy array (HW, HWC or CHW; where both
    fit it is HWC) or a torch tensor (HW or CHW). Arrays have 1, 3 or 4 channels, may have a batch
    axis of 1, and hold bool, uint8, uint16 or floats in [0, 1]. Transparency lies on white. Any
    aspect is accepted, 1 x 4096 too. Raises ImageError.
    """
    return as_rgb(upright(opened(image, "picture")), background="white")


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
    if not whole or min(width, height) < 1 or width * height > MAX_PIXELS:
        raise ImageError(
            f"size must be two whole numbers from 1, at most 32 megapixels, got {shown(size)}"
        )
    return width, height


def opened(image: Any, what: str) -> Image.Image:
    """The picture as its kind gives it: any mode, not yet upright, pixels decoded."""
    if isinstance(image, Image.Image):
        return _decoded(image)
    if isinstance(image, (str, os.PathLike)):
        return _from_file(read_file(os.fsdecode(image)))
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _from_file(bytes(image))
    if callable(getattr(image, "read", None)):
        return _from_file(_read_stream(image))
    values = array_values(image, what)
    if values is None:
        raise ImageError(
            f"cannot read a {what} from {type(image).__name__}: give a path, bytes, PIL picture or array"
        )
    return _from_array(values, what)


def read_file(path: str) -> bytes:
    """A file, or what comes through a pipe, but no more than a picture may have. Raises ImageError."""
    if re.match(r"[a-z][a-z0-9+.-]*://|data:", path, re.IGNORECASE):
        raise ImageError("URLs are not fetched: download the picture and give its path or bytes")
    if os.path.isdir(path):
        raise ImageError(f"{shown(path)} is a folder")
    if not os.path.exists(path):
        raise ImageError(f"no such file: {shown(path)}")
    try:
        with open(path, "rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except OSError:
        raise ImageError(f"cannot read {shown(path)}") from None


def _read_stream(stream: Any) -> bytes:
    try:
        data = stream.read(MAX_FILE_BYTES + 1)
    except Exception:  # the caller's object: anything may come
        raise ImageError("cannot read the file object") from None
    if not isinstance(data, bytes):
        raise ImageError("the file object does not give bytes: open it in binary mode")
    return data


def _from_file(data: bytes) -> Image.Image:
    if not data:
        raise ImageError("the picture file is empty")
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"the picture file is larger than {MAX_FILE_BYTES >> 20} MiB")
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"the picture has more than {MAX_PIXELS // 10**6} megapixels") from None
    # Damaged headers raise nearly anything, and Pillow's texts hold memory addresses
    except Exception:
        raise ImageError("not a PNG, JPEG or WEBP picture, or a damaged one") from None
    # Pillow alone would let the last bytes be missing
    if picture.format == "PNG" and _PNG_END not in data:
        raise ImageError("the picture is damaged or cut short")
    return _decoded(picture)


def _decoded(picture: Image.Image) -> Image.Image:
    _check_pixels(*picture.size)
    try:
        # MPO: a phone's JPEG with previews or depth behind the picture itself, which comes first.
        animated = picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1
        if not animated:
            picture.load()
    # Decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error and more
    except Exception:
        raise ImageError("the picture is damaged or cut short") from None
    if animated:
        raise ImageError("the picture is animated: give a single frame")
    return picture


def _check_pixels(width: int, height: int) -> None:
    if min(width, height) < 1:
        raise ImageError("the picture has no pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"the picture has more than {MAX_PIXELS // 10**6} megapixels: {width} x {height}"
        )


def upright(picture: Image.Image) -> Image.Image:
    try:
        turn = _UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF says nothing about the pixels
        turn = None
    return picture if turn is None else picture.transpose(turn)


def as_rgb(picture: Image.Image, background: str) -> Image.Image:
    """Any mode -> RGB without metadata, transparency lies on `background`; 16 bits are scaled, F is
    in [0, 1]."""
    if picture.mode == "F" or picture.mode.startswith("I;16"):
        picture = _from_array(np.asarray(picture)[..., None], "picture")
    elif picture.mode == "I":
        raise ImageError("pictures of mode I have no fixed range: convert to L or I;16 first")
    try:
        if picture.has_transparency_data:
            pixels = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", pixels.size, background), pixels)
        rgb = picture.convert("RGB")
    except Exception:
        raise ImageError(f"cannot convert a picture of mode {picture.mode} to RGB") from None
    rgb.info = {}  # an orientation left here would turn the picture twice
    return rgb


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
    _check_pixels(values.shape[1], values.shape[0])
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
