"""What is kept of graphs between processes, in ICD_HOME: models converted for OpenVINO, and small
graphs as OpenVINO has compiled them."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from icd_engine.bundles.bundle import Bundle
from icd_engine.bundles.exported import FORMAT
from icd_engine.bundles.home import home
from icd_engine.bundles.target import RECORD
from icd_engine.version import __version__

PRECISIONS = ("bf16", "fp32")  # of conversions
MOST_COMPILED = 2**30  # bytes of compiled graphs; the oldest go first
# Code that graphs are made of: another version of it makes others
ROOT = Path(__file__).resolve().parents[2]
MAKERS = ("export", "csrc_triton", "icd_engine/networks")


def converted_folder(bundle: Bundle, precision: str) -> Path:
    """Where a folder of weights is kept as OpenVINO's graphs, whether they are there or not.

    precision: of the export, one of PRECISIONS.
    """
    about = [
        precision,
        bundle.fingerprint,
        [] if bundle.sha256 else [*_stamps(bundle.path)],
        bundle.blend_downscale,
        bundle.share_downscale,
        FORMAT,
        __version__,
        version("openvino"),
        _code(),
    ]
    return home() / "converted" / f"{bundle.path.resolve().name}-{_key(about)}"


def is_converted(bundle: Bundle, *precisions: str) -> bool:
    """In one of the precisions, whichever."""
    return any((converted_folder(bundle, one) / RECORD).is_file() for one in precisions)


def compiled_folder(bundle: Bundle, options: Mapping[str, Any]) -> Path | None:
    """Where graphs of an exported folder are kept as they are compiled with these options on this
    processor; all such folders are cut to their most. None where nothing can be written.

    A folder for each: OpenVINO's own names of what it keeps do not tell precisions apart, and
    programs of the wrong one compute NaN, or worse.
    """
    if not bundle.sha256:
        return None
    about = [bundle.fingerprint, options, version("openvino"), processor()]
    folder = home() / "compiled" / _key(about)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _cut(folder.parent)
        with TemporaryDirectory(dir=folder):  # permissions do not tell of read-only file systems
            pass
    except OSError:
        return None
    return folder


def processor() -> str:
    """What tells processors apart whose programs are not for each other."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return " ".join(
        line for line in dict.fromkeys(lines) if line.startswith(("model name", "flags"))
    )


def _key(about: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def _cut(folder: Path) -> None:
    files = {path: path.stat() for path in folder.rglob("*.blob")}
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
