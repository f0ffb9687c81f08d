"""The options about what written pictures say of their origin, and how they are encoded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from icd_engine.cli.options import UsageError
from icd_engine.provenance import Signature
from icd_engine.saving import QUALITY
from icd_engine.watermark import require

Provenance = Annotated[
    bool,
    typer.Option(
        "--provenance/--no-provenance",
        help="Say in the file's metadata that a model made the picture.",
    ),
]
KeepMetadata = Annotated[
    bool,
    typer.Option(
        "--keep-metadata",
        help="Keep EXIF, XMP, comment and (JPEG) IPTC of the picture; its resolution always stays.",
    ),
]
Quality = Annotated[
    int, typer.Option(min=1, max=100, help="Of JPEG, WEBP and AVIF.", show_default=True)
]
C2paCert = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Sign that statement (C2PA): certificate chain, PEM.",
        show_default="not signed",
    ),
]
C2paKey = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="The certificate's private key, PEM.", show_default="not signed"
    ),
]
C2paTime = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Time authority (RFC 3161) that is sent the signature's hash and signs when it was made.",
        show_default="no time stamp",
    ),
]
Watermark = Annotated[
    bool,
    typer.Option(
        "--watermark",
        help="Mark the pixels imperceptibly as made by a model; from 65,536 pixels on.",
    ),
]


def marks(
    provenance: bool,
    certificate: Path | None,
    key: Path | None,
    time: str | None = None,
    watermark: bool = False,
    quality: int = QUALITY,
) -> dict[str, Any]:
    """What `save_image` is told of quality and origin, the signature read and tried.

    Raises SettingsError, RunnerError.
    """
    if (certificate is None) != (key is None):
        raise UsageError("--c2pa-cert and --c2pa-key belong together")
    if time is not None and certificate is None:
        raise UsageError("--c2pa-time needs --c2pa-cert and --c2pa-key")
    told: dict[str, Any] = {"quality": quality, "provenance": provenance}
    if watermark:
        require()
        told["watermark"] = True
    if certificate is None or key is None:
        return told
    if not provenance:
        raise UsageError("--no-provenance contradicts --c2pa-cert")
    return {**told, "signature": Signature.read(certificate, key, time)}
