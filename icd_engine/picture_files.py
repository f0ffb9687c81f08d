"""Picture files: read within limits, decoded; what cannot be read is named, and what to do with it."""

from __future__ import annotations

import io
import os
import re
import warnings
from typing import Any

from PIL import Image

from icd_engine.errors import ImageError, shown

MEGA = 10**6
MAX_FILE_BYTES = 128 * 2**20
MAX_PIXELS = 64 * MEGA

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF", "BMP")
SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".avif",
    ".tif",
    ".tiff",
    ".gif",
    ".bmp",
    ".heic",
    ".heif",
)
READ = "PNG, JPEG, WEBP, AVIF, HEIC, TIFF, GIF or BMP"
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
BRAND = slice(8, 12)  # behind "ftyp"
OTHERS = {
    b"%PDF": "a PDF: save the page as a PNG",
    b"%!PS": "a PostScript file: save it as a PNG",
    b"8BPS": "a Photoshop file: save it as a PNG",
    b"gimp": "a GIMP file: export it as a PNG",
    b"\xff\x0a": "a JPEG XL picture: save it as a PNG or JPEG",
    b"\0\0\0\x0cJXL ": "a JPEG XL picture: save it as a PNG or JPEG",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 picture: save it as a PNG",
    b"FUJIFILM": "a camera's raw file: develop it to a JPEG or TIFF",
    b"v/1\x01": "an OpenEXR picture: save it as a PNG",
    b"PK\x03\x04": "a ZIP archive: unpack it",
    b"\x1f\x8b": "a gzip archive: unpack it",
    b"\x1aE\xdf\xa3": "a film: save one frame as a PNG",
}
FTYP = {
    b"crx ": "a camera's raw file: develop it to a JPEG or TIFF",
    b"jxl ": "a JPEG XL picture: save it as a PNG or JPEG",
}
BEGINNINGS = {  # of formats that are read, of which something is amiss behind them
    b"\x89PNG": "PNG",
    b"\xff\xd8": "JPEG",
    b"RIFF": "WEBP",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
_PNG_END = b"IEND\xaeB`\x82"


def limit(name: str, most: int) -> int:
    """How many PIXELS or BYTES a picture may have: ICD_MAX_PIXELS, ICD_MAX_BYTES of the environment, or
    `most`."""
    given = os.environ.get(f"ICD_MAX_{name}", "")
    if not given:
        return most
    if not given.isdecimal() or int(given) < 1:
        raise ImageError(f"ICD_MAX_{name} must be a whole number from 1, not {shown(given)}")
    return int(given)


def read_file(path: str, what: str = "picture") -> bytes:
    """A file, or what comes through a pipe, but no more than one byte beyond the limit. what: picture or
    mask. ImageError."""
    if re.match(r"[a-z][a-z0-9+.-]*://|data:", path, re.IGNORECASE):
        raise ImageError(f"URLs are not fetched: download the {what} and give its path or bytes")
    if os.path.isdir(path):
        raise ImageError(f"the {what} {shown(path)} is a folder")
    if not os.path.exists(path):
        raise ImageError(f"the {what} is missing, no such file: {shown(path)}")
    try:
        with open(path, "rb") as file:
            return file.read(limit("BYTES", MAX_FILE_BYTES) + 1)
    except OSError:
        raise ImageError(f"cannot read the {what} {shown(path)}") from None


def read_stream(stream: Any, what: str) -> bytes:
    """All of a binary file object where it can seek: one that was just written stands at its end. It is
    left where it was."""
    most = limit("BYTES", MAX_FILE_BYTES)
    try:
        place = _rewound(stream)
        data = stream.read(most + 1)
        if place is not None:
            stream.seek(place)
    except Exception:  # the caller's object: anything may come
        raise ImageError(f"cannot read the file object of the {what}") from None
    if not isinstance(data, bytes):
        raise ImageError(
            f"the file object of the {what} does not give bytes: open it in binary mode"
        )
    return data


def _rewound(stream: Any) -> int | None:
    """Where a stream was before it went to its start; None of one that cannot seek."""
    try:
        place = stream.tell()
        stream.seek(0)
    except Exception:  # pipes and sockets raise OSError, others have no such method
        return None
    return place


def from_file(data: bytes, what: str) -> Image.Image:
    """The picture that the bytes of a file hold, decoded: any mode, not yet upright. ImageError."""
    if not data:
        raise ImageError(f"the {what} file is empty")
    most = limit("BYTES", MAX_FILE_BYTES)
    if len(data) > most:
        text = f"the {what} file is larger than {most / 2**20:g} MiB"
        raise ImageError(f"{text} (ICD_MAX_BYTES allows others)")
    formats = _with_heif(data, FORMATS)
    try:
        picture = Image.open(io.BytesIO(data), formats=formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(_too_many(what)) from None
    # Damaged headers raise nearly anything, and Pillow's texts hold memory addresses
    except Exception:
        raise ImageError(_unread(data, what)) from None
    # Pillow alone would let the last bytes be missing
    if picture.format == "PNG" and _PNG_END not in data:
        raise ImageError(f"the {what} is damaged or cut short")
    return decoded(picture, what)


def decoded(picture: Image.Image, what: str) -> Image.Image:
    """A Pillow picture with its pixels read; of several frames the first, with a warning."""
    check_pixels(*picture.size, what)
    try:
        # MPO: a phone's JPEG with previews or depth behind the picture itself, which comes first.
        frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
        if frames > 1:
            picture.seek(0)
        picture.load()
    # Decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error and more
    except Exception:
        raise ImageError(f"the {what} is damaged or cut short") from None
    if frames > 1:
        warnings.warn(f"the {what} has {frames} frames: the first is read", stacklevel=2)
    return picture


def check_pixels(width: int, height: int, what: str) -> None:
    """ImageError where there are none, or too many."""
    if min(width, height) < 1:
        raise ImageError(f"the {what} has no pixels")
    if width * height > limit("PIXELS", MAX_PIXELS):
        raise ImageError(f"{_too_many(what)}: {width} x {height}")


def _too_many(what: str) -> str:
    most = limit("PIXELS", MAX_PIXELS) / MEGA
    return f"the {what} has more than {most:g} megapixels (ICD_MAX_PIXELS allows others)"


def _with_heif(data: bytes, formats: tuple[str, ...]) -> tuple[str, ...]:
    """The formats that Pillow may try; HEIC among them once pillow-heif is needed. ImageError where it
    is not installed."""
    if data[4:8] != b"ftyp" or data[BRAND] not in HEIF_BRANDS or b"avif" in data[16:64]:
        return formats
    try:
        from pillow_heif import register_heif_opener  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImageError(
            "a HEIC picture needs pillow-heif (pip install 'icd-engine[heic]'), or save it as a JPEG"
        ) from None
    register_heif_opener()
    return (*formats, "HEIF")


def _unread(data: bytes, what: str) -> str:
    """Why a file that Pillow does not know cannot be read, and what to do."""
    found = next((text for start, text in OTHERS.items() if data.startswith(start)), None)
    if found is None and data[4:8] == b"ftyp":
        found = FTYP.get(data[BRAND])
        if found is None and data[BRAND] not in (b"avif", b"avis", *HEIF_BRANDS):
            found = "a film: save one frame as a PNG"
    if found is None and b"<svg" in data[:1000].lower():
        found = "an SVG drawing: save it as a PNG"
    elif found is None and b"<html" in data[:1000].lower():
        found = "a web page: save the picture that it shows"
    if found is not None:
        return f"the {what} is {found}"
    own = next((name for start, name in BEGINNINGS.items() if data.startswith(start)), None)
    if own is not None:
        return f"a damaged {own} {what}, or of a kind that cannot be read: save it anew as a PNG"
    return f"not a {READ} {what}, or a damaged one"
