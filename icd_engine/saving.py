"""Pictures to files, whole or not at all, which say that a model made them."""

import io
import os
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from icd_engine.atomic import write_whole
from icd_engine.errors import ImageError, shown
from icd_engine.provenance import SOURCE_TYPE, SOURCE_TYPES, Signature

_SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_OPTIONS = {"PNG": {}, "JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95}}
_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"><Iptc4xmpExt:DigitalSourceType>'
    f"{SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType></rdf:Description>"
    '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def save_image(
    picture: Image.Image,
    path: str | os.PathLike[str],
    *,
    provenance: bool = True,
    source_type: str = "compositeWithTrainedAlgorithmicMedia",
    signature: Signature | None = None,
    parent: bytes | None = None,
) -> Path:
    """Write PNG, JPEG or WEBP (by suffix) in one step: `path` holds the whole picture or what it
    held before.

    Missing folders are made. With `provenance` the file says in XMP that a model made it: IPTC
    digital source type "compositeWithTrainedAlgorithmicMedia" (an edit) or
    "trainedAlgorithmicMedia" (generated). With a `signature` it says so in a C2PA manifest too, as
    an edit of the file `parent` where that is given. Returns the path. Raises ImageError, and what
    `Signature.sign` does.
    """
    target = Path(path)
    data = image_bytes(
        picture,
        target.name,
        provenance=provenance,
        source_type=source_type,
        signature=signature,
        parent=parent,
    )
    return write_whole(target, data, ImageError)


def image_bytes(
    picture: Image.Image,
    name: str = "picture.png",
    *,
    provenance: bool = True,
    source_type: str = "compositeWithTrainedAlgorithmicMedia",
    signature: Signature | None = None,
    parent: bytes | None = None,
) -> bytes:
    """The file that save_image would write under `name`. Raises what that raises."""
    if source_type not in SOURCE_TYPES:
        raise ImageError(f"unknown source_type {shown(source_type)}: {' or '.join(SOURCE_TYPES)}")
    data = _encoded(picture, name, _XMP.format(source_type) if provenance else None)
    if signature is None:
        return data
    title = name.encode("utf-8", "backslashreplace").decode()  # names need not be text
    return signature.sign(data, title, source_type, parent)


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
