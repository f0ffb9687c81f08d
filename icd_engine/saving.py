"""Pictures to files, whole or not at all, which say that a model made them."""

import io
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from PIL import Image

from icd_engine import metadata
from icd_engine.atomic import write_whole
from icd_engine.colour import srgb_profile
from icd_engine.errors import ImageError, shown
from icd_engine.provenance import SOURCE_TYPE, SOURCE_TYPES, Signature
from icd_engine.watermark import marked

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".avif": "AVIF"}
_OPTIONS = {"JPEG": {"subsampling": 0}, "AVIF": {"subsampling": "4:4:4"}}
QUALITY = 95  # of formats that have one
_FORMATS = "'PNG', 'JPEG', 'WEBP' or 'AVIF'"


def save_image(
    picture: Image.Image,
    path: str | os.PathLike[str] | IO[bytes],
    *,
    format: str | None = None,
    provenance: bool = True,
    source_type: str = "compositeWithTrainedAlgorithmicMedia",
    signature: Signature | None = None,
    parent: bytes | None = None,
    about: Mapping[Any, Any] | None = None,
    quality: int = QUALITY,
    watermark: bool = False,
) -> Any:
    """Write PNG, JPEG, WEBP or AVIF (the `format` of that name, or by suffix) in one step: `path` holds
    the whole picture or what it held before.

    `path` may be a binary file object: it has no suffix and needs a `format`. Missing folders are made.
    The picture is sRGB, and the file says so; its resolution goes with it. With `provenance` the file
    says in XMP that a model made it: IPTC digital source type "compositeWithTrainedAlgorithmicMedia"
    (an edit) or "trainedAlgorithmicMedia" (generated). With a `signature` it says so in a C2PA manifest
    too, as an edit of the file `parent` where that is given. about: metadata that are kept
    (`metadata.read`); a mark of a model in them stays. quality: 1 to 100, of JPEG, WEBP and AVIF. A JPEG
    cannot be transparent: it lies on white, with a warning. watermark: an imperceptible mark in the
    pixels, see `watermark`; off, for it changes them. Returns the path or the file object.
    Raises ImageError, and what `Signature.sign` does.
    """
    title, encoded_as = _names(path, format)
    data = image_bytes(
        picture,
        encoded_as,
        provenance=provenance,
        source_type=source_type,
        about=about,
        quality=quality,
        signature=signature,
        parent=parent,
        title=title,
        watermark=watermark,
    )
    if isinstance(path, str | os.PathLike):
        return write_whole(Path(path), data, ImageError)
    try:
        path.write(data)
    except Exception as error:  # the caller's object: anything may come
        told = getattr(error, "strerror", None) or "open it for writing in binary mode"
        raise ImageError(f"cannot write to the file object: {told}") from None
    return path


def _names(path: Any, format: str | None) -> tuple[str, str]:
    """What the picture is called, and a name whose suffix tells its format."""
    is_path = isinstance(path, str | os.PathLike)
    if not is_path and not callable(getattr(path, "write", None)):
        raise ImageError(f"a path or a file object is needed to write to, not {shown(path)}")
    if format is None and not is_path:
        raise ImageError(f"a file object does not tell its format: give format={_FORMATS}")
    encoded_as = f"picture.{str(format).lower()}"
    if format is not None and Path(encoded_as).suffix not in SUFFIXES:
        raise ImageError(f"format must be {_FORMATS}, not {shown(format)}")
    title = Path(path).name if is_path else encoded_as
    return title, title if format is None else encoded_as


def image_bytes(
    picture: Image.Image,
    name: str = "picture.png",
    *,
    provenance: bool = True,
    source_type: str = "compositeWithTrainedAlgorithmicMedia",
    about: Mapping[Any, Any] | None = None,
    quality: int = QUALITY,
    signature: Signature | None = None,
    parent: bytes | None = None,
    title: str | None = None,
    watermark: bool = False,
) -> bytes:
    """The file that save_image would write under `name`. Raises what that raises."""
    if source_type not in SOURCE_TYPES:
        raise ImageError(f"unknown source_type {shown(source_type)}: {' or '.join(SOURCE_TYPES)}")
    if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
        raise ImageError(f"quality must be a whole number in 1..100, not {shown(quality)}")
    file_format = SUFFIXES.get(Path(name).suffix.lower())
    if file_format is None:
        raise ImageError(f"cannot tell the format of {name!r}: end it in {', '.join(SUFFIXES)}")
    options: dict[str, Any] = dict(_OPTIONS.get(file_format, {}))
    if file_format != "PNG":
        options["quality"] = quality
    mark = SOURCE_TYPE.format(source_type) if provenance else None
    options |= metadata.options(file_format, {**picture.info, **(about or {})}, mark, bool(about))
    data = _encoded(marked(picture) if watermark else picture, file_format, options)
    if signature is None:
        return data
    title = (title or name).encode("utf-8", "backslashreplace").decode()  # names need not be text
    return signature.sign(data, title, source_type, parent)


def _encoded(picture: Image.Image, file_format: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    plain = picture.copy()
    if file_format == "JPEG" and plain.mode == "RGBA":
        warnings.warn("a JPEG cannot be transparent: the picture lies on white", stacklevel=4)
        white = Image.new("RGBA", plain.size, "white")
        plain = Image.alpha_composite(white, plain).convert("RGB")
    try:
        plain.info = {}  # Pillow would carry the input's metadata over
        if plain.mode in ("RGB", "RGBA"):
            options = {"icc_profile": srgb_profile(), **options}
        plain.save(buffer, file_format, **options)
    except Exception:  # encoders raise OSError, ValueError, struct.error and more
        raise ImageError(
            f"cannot write a {picture.mode} picture of size {picture.size} as {file_format}"
        ) from None
    return buffer.getvalue()
