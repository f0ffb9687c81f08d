"""Pictures to files, whole or not at all, which say that a model made them."""

import io
import os
from pathlib import Path
from typing import IO, Any

from PIL import Image, PngImagePlugin

from icd_engine.atomic import write_whole
from icd_engine.errors import ImageError, shown
from icd_engine.provenance import SOURCE_TYPE, SOURCE_TYPES, Signature

_SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_OPTIONS = {"PNG": {}, "JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95}}
_FORMATS = "'PNG', 'JPEG' or 'WEBP'"
_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"><Iptc4xmpExt:DigitalSourceType>'
    f"{SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType></rdf:Description>"
    '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def save_image(
    picture: Image.Image,
    path: str | os.PathLike[str] | IO[bytes],
    *,
    format: str | None = None,
    provenance: bool = True,
    source_type: str = "compositeWithTrainedAlgorithmicMedia",
    signature: Signature | None = None,
    parent: bytes | None = None,
) -> Any:
    """Write PNG, JPEG or WEBP (the `format` of that name, or by suffix) in one step: `path` holds the
    whole picture or what it held before.

    `path` may be a binary file object: it has no suffix and needs a `format`. Missing folders are
    made. With `provenance` the file says in XMP that a model made it: IPTC
    digital source type "compositeWithTrainedAlgorithmicMedia" (an edit) or
    "trainedAlgorithmicMedia" (generated). With a `signature` it says so in a C2PA manifest too, as
    an edit of the file `parent` where that is given. Returns the path or the file object. Raises ImageError, and what
    `Signature.sign` does.
    """
    title, encoded_as = _names(path, format)
    data = image_bytes(picture, encoded_as, provenance=provenance, source_type=source_type)
    if signature is not None:
        data = signature.sign(data, title, source_type, parent)
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
    if format is not None and Path(encoded_as).suffix not in _SUFFIXES:
        raise ImageError(f"format must be {_FORMATS}, not {shown(format)}")
    title = Path(path).name if is_path else encoded_as
    return title, title if format is None else encoded_as


def image_bytes(
    picture: Image.Image,
    name: str = "picture.png",
    *,
    provenance: bool = True,
    source_type: str = "compositeWithTrainedAlgorithmicMedia",
) -> bytes:
    """The file that save_image would write under `name`, unsigned. Raises ImageError."""
    if source_type not in SOURCE_TYPES:
        raise ImageError(f"unknown source_type {shown(source_type)}: {' or '.join(SOURCE_TYPES)}")
    return _encoded(picture, name, _XMP.format(source_type) if provenance else None)


def _encoded(picture: Image.Image, name: str, xmp: str | None) -> bytes:
    file_format = _SUFFIXES.get(Path(name).suffix.lower())
    if file_format is None:
        raise ImageError(f"cannot tell the format of {name!r}: end it in {', '.join(_SUFFIXES)}")
    options: dict[str, Any] = dict(_OPTIONS[file_format])
    if xmp is not None and file_format == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp)
    elif xmp is not None:
        options["xmp"] = xmp.encode()
    buffer = io.BytesIO()
    try:
        plain = picture.copy()
        plain.info = {}  # Pillow would carry the input's metadata over
        plain.save(buffer, file_format, **options)
    except Exception:  # encoders raise OSError, ValueError, struct.error and more
        raise ImageError(
            f"cannot write a {picture.mode} picture of size {picture.size} as {file_format}"
        ) from None
    return buffer.getvalue()
