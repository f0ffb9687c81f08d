"""What is kept of graphs between processes, in ICD_HOME: models converted for OpenVINO, and small
graphs as OpenVINO has compiled them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from icd_engine.bundles.bundle import Bundle
from icd_engine.bundles.exported import FORMAT
from icd_engine.bundles.home import home
from icd_engine.bundles.target import RECORD
from icd_engine.version import __version__

MOST_COMPILED = 2**30  # bytes of compiled graphs; the oldest go first
# Code that graphs are made of: another version of it makes others
ROOT = Path(__file__).resolve().parents[2]
MAKERS = ("export", "csrc_triton", "icd_engine/networks")


def converted_folder(bundle: Bundle) -> Path:
    """Where a folder of weights is kept as OpenVINO's graphs, whether they are there or not."""
    about = [
        bundle.fingerprint,
        [] if bundle.sha256 else [*_stamps(bundle.path)],
        bundle.blend_downscale,
        bundle.share_downscale,
        FORMAT,
        __version__,
        version("openvino"),
        _code(),
    ]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    return home() / "converted" / f"{bundle.path.resolve().name}-{key}"


def is_converted(bundle: Bundle) -> bool:
    return (converted_folder(bundle) / RECORD).is_file()


def compiled_folder() -> Path | None:
    """The folder of compiled graphs, cut to its most; None where none can be written."""
    folder = home() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _cut(folder)
        marker = folder / ".writable"
        marker.touch()
    except OSError:
        return None
    return folder


def _cut(folder: Path) -> None:
    files = {path: path.stat() for path in folder.glob("*.blob")}
    held = sum(one.st_size for one in files.values())
    for path, one in sorted(files.items(), key=lambda item: item[1].st_atime):
        if held <= MOST_COMPILED:
            return
        held -= one.st_size
        with suppress(OSError):
            path.unlink()


def _stamps(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Of a model without recorded digests: which files it has, their bytes and when they were
    written."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            about = path.stat()
            yield path.relative_to(folder).as_posix(), about.st_size, about.st_mtime_ns


def _code() -> str:
    """The digest of the code that graphs are made by and of."""
    digest = hashlib.sha256()
    for path in sorted(path for maker in MAKERS for path in (ROOT / maker).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
