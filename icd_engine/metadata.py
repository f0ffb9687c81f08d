"""What a file says beside its pixels: read with the picture, written with a result where that is
asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

# In the `info` of pictures that are read. Resolution goes with every result, the rest on request.
DPI = "dpi"
KEPT = ("exif", "xmp", "iptc", "comment")
XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">{}</rdf:RDF></x:xmpmeta>'
    '<?xpacket end="w"?>'
)
MARK = (
    '<rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"><Iptc4xmpExt:DigitalSourceType>'
    "{}</Iptc4xmpExt:DigitalSourceType></rdf:Description>"
)
END = "</rdf:RDF>"
# As an element or an attribute, the value in group 2
MARKED = re.compile(r"(DigitalSourceType\s*(?:>\s*|=\s*[\"']))([^<\"']*)")
BY_MODELS = "algorithmicmedia"  # in the values that say a model had a part in it
PHOTOSHOP = b"Photoshop 3.0\0"  # what holds IPTC in a JPEG
SIZES = (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)


def read(picture: Image.Image) -> dict[str, Any]:
    """dpi (x, y), and exif (upright, without a preview), xmp, iptc (a JPEG's own block) and comment,
    each as far as the file has it."""
    info = picture.info
    found: dict[str, Any] = {}
    dpi = info.get("dpi")
    if isinstance(dpi, tuple) and len(dpi) == 2 and all(0 < float(one) < 1e6 for one in dpi):
        found[DPI] = (float(dpi[0]), float(dpi[1]))
    exif = _upright_exif(picture)
    if exif:
        found["exif"] = exif
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp")
    if xmp:
        found["xmp"] = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    blocks = [data for name, data in getattr(picture, "applist", []) if name == "APP13"]
    iptc = next((data for data in blocks if data.startswith(PHOTOSHOP)), info.get("iptc"))
    if iptc:
        found["iptc"] = iptc
    comment = info.get("comment") or info.get("Comment") or info.get("Description")
    if comment:
        found["comment"] = comment if isinstance(comment, bytes) else str(comment).encode()
    return found


def _upright_exif(picture: Image.Image) -> bytes:
    """Nothing where it is broken: it says nothing about the pixels."""
    try:
        own = picture.getexif()
        if not len(own):
            return b""
        exif = Image.Exif()  # a copy: the picture may be the caller's
        exif.load(own.tobytes())
        exif.pop(ExifTags.Base.Orientation, None)
        for size in SIZES:
            exif.get_ifd(ExifTags.IFD.Exif).pop(size, None)
        return exif.tobytes()
    except Exception:
        return b""


def options(
    file_format: str, about: Mapping[Any, Any], mark: str | None, keep: bool
) -> dict[str, Any]:
    """What Pillow is told when it saves. about: what `read` has found. mark: the IPTC's address of a
    digital source type, None for none. keep: all of `about`, not its resolution alone."""
    kept = {name: about[name] for name in KEPT if name in about} if keep else {}
    told: dict[str, Any] = {name: kept[name] for name in ("exif",) if name in kept}
    if DPI in about:
        told[DPI] = about[DPI]
    xmp = kept.get("xmp") if mark is None else marked(kept.get("xmp"), mark)
    if file_format == "PNG":
        texts = PngImagePlugin.PngInfo()
        if xmp:
            texts.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
        if "comment" in kept:
            texts.add_itxt("Comment", kept["comment"].decode("utf-8", "replace"))
        return told | {"pnginfo": texts}
    if xmp:
        told["xmp"] = xmp
    if file_format == "JPEG":
        if "comment" in kept:
            told["comment"] = kept["comment"]
        if "iptc" in kept and len(kept["iptc"]) < 65_534:
            block = kept["iptc"]
            told["extra"] = b"\xff\xed" + (len(block) + 2).to_bytes(2, "big") + block
    return told


def marked(xmp: bytes | None, source_type: str) -> bytes:
    """XMP that names the digital source type: one of a model that is there already stays, another is
    replaced, none is added."""
    text = (xmp or b"").decode("utf-8", "replace")
    if END not in text:
        return XMP.format(MARK.format(source_type)).encode()
    if not MARKED.search(text):
        return text.replace(END, MARK.format(source_type) + END, 1).encode()

    def value(found: re.Match[str]) -> str:
        own = found[2].strip()
        return found[1] + (own if own.lower().endswith(BY_MODELS) else source_type)

    return MARKED.sub(value, text).encode()
