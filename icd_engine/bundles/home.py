"""The folder that published models are kept in (ICD_HOME): what is here of them, and how it goes."""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from icd_engine.atomic import write_whole
from icd_engine.bundles.files import file_digest
from icd_engine.bundles.published import PUBLISHED, Published, Source
from icd_engine.bundles.scratch import scratch_folder
from icd_engine.bundles.target import RECORD
from icd_engine.errors import BundleError

HOME = "ICD_HOME"
RECEIPT = "icd-source.json"  # of a source that is whole: where from, and SHA-256 of its files
CHECKSUMS = "checksums.json"  # of archives whose authors publish none, from their first download


def home() -> Path:
    """ICD_HOME, or `icd-engine` in the user's cache folder of this system."""
    given = os.environ.get(HOME)
    if given:
        return Path(given).expanduser().absolute()
    if sys.platform == "win32":
        cache = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        cache = "~/Library/Caches"
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "icd-engine"


def model_folder(name: str) -> Path:
    """Where the published model of a name is kept, whether it is here or not."""
    return home() / "models" / name


def source_folder(source: Source) -> Path:
    """Where the files of a source are kept."""
    return home() / "sources" / source.key


def is_here(name: str) -> bool:
    """Whether the published model of a name is here, whole."""
    return (model_folder(name) / RECORD).is_file()


def asked_for(model: object) -> Published | None:
    """The published model that a name stands for. None for every other name or path, and for a
    model folder of that name in the current folder, which goes first: a warning says so."""
    if not isinstance(model, str) or model not in PUBLISHED:
        return None
    if (Path(model) / RECORD).is_file():
        warnings.warn(
            f"{model} is the model folder {Path(model).absolute()}, which goes before the published "
            "model of that name",
            stacklevel=1,  # the same place whoever asks: it is told once
        )
        return None
    return PUBLISHED[model]


def local_folder(model: str | Path) -> Path:
    """The folder that a model's name or path stands for. BundleError for a published model that is
    not here yet."""
    if asked_for(model) is None:
        return Path(model)
    name = str(model)
    if not is_here(name):
        raise BundleError(f"{name} is not on this machine yet: `icd pull {name}` downloads it")
    return model_folder(name)


# --- sources --------------------------------------------------------------------------------------


def receipt(source: Source) -> dict[str, Any] | None:
    """{"from": ..., "sha256": {file: digest}} of a source that is here, whole; None otherwise."""
    folder = source_folder(source)
    try:
        told = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))
        whole = all((folder / name).is_file() for name in told["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return told if whole else None


def write_receipt(source: Source, come_from: str, digests: Mapping[str, str]) -> None:
    """From here on the source counts as here. BundleError where it cannot be written."""
    told = json.dumps({"from": come_from, "sha256": dict(digests)}, indent=2)
    write_whole(source_folder(source) / RECEIPT, f"{told}\n".encode(), BundleError)


def damaged(source: Source) -> str | None:
    """The name of the first file of a source that is not as its receipt says; None if all are."""
    told = receipt(source)
    for name, digest in (told or {"sha256": {}})["sha256"].items():
        if file_digest(source_folder(source) / name) != digest:
            return name
    return None


def recorded(url: str) -> str | None:
    """The SHA-256 that an archive had when it was first downloaded to this machine."""
    return _checksums().get(url)


def record(url: str, digest: str) -> None:
    """Keeps it, also after the archive is removed. BundleError where it cannot be written."""
    told = json.dumps(_checksums() | {url: digest}, indent=2)
    write_whole(home() / CHECKSUMS, f"{told}\n".encode(), BundleError)


def _checksums() -> dict[str, str]:
    path = home() / CHECKSUMS
    if not path.is_file():
        return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return {str(url): str(digest) for url, digest in told.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise BundleError(f"{path} is not readable JSON: {error}") from None


# --- sizes, and what goes -------------------------------------------------------------------------


def size_of(folder: Path) -> int:
    """Bytes of all files of a folder; 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def remove(name: str) -> int:
    """Removes a published model and those of its sources that no other model here needs, also what
    ended runs have left of them; returns the bytes that are free again.

    Raises BundleError where the name is unknown, nothing of it is here, or it cannot be removed.
    """
    check_name(name)
    with alone(lambda line: None):
        others = {
            source
            for other, published in PUBLISHED.items()
            if other != name and is_here(other)
            for source in published.sources
        }
        own = [source_folder(source) for source in PUBLISHED[name].sources if source not in others]
        folders = [folder for folder in (model_folder(name), *own) if folder.is_dir()]
        if not folders:
            raise BundleError(f"{name} is not on this machine")
        return _remove(folders)


def remove_sources() -> int:
    """Removes all that was downloaded; models that are made of it stay. Returns the bytes that are
    free again."""
    with alone(lambda line: None):
        return _remove([source_folder(source) for source in all_sources()])


def all_sources() -> list[Source]:
    """Those of all published models, each once."""
    return [*dict.fromkeys(source for own in PUBLISHED.values() for source in own.sources)]


def check_name(name: str) -> None:
    """BundleError unless a published model has that name."""
    if name not in PUBLISHED:
        raise BundleError(
            f"{name!r} is not the name of a published model (known: {', '.join(PUBLISHED)})"
        )


def _remove(folders: list[Path]) -> int:
    folders = [folder for folder in folders if folder.is_dir()]
    freed = sum(size_of(folder) for folder in folders)
    for folder in folders:
        for mark in (RECORD, RECEIPT):  # first: a half-removed one must not count as here
            (folder / mark).unlink(missing_ok=True)
        shutil.rmtree(folder)
    if (home() / "models").is_dir():
        with scratch_folder(home() / "models", ".icd-"):  # what killed conversions have left goes
            pass
    return freed


@contextmanager
def alone(tell: Callable[[str], None]) -> Iterator[None]:
    """For the length of a block, no other process changes what is kept; waits for one that does, and
    tells so. BundleError where the folder cannot be written, or the block cannot write to it."""
    from filelock import FileLock, Timeout

    try:
        home().mkdir(parents=True, exist_ok=True)
        # Permissions do not tell of file systems that are read-only or full
        with TemporaryDirectory(prefix=".icd-", dir=home()):
            pass
        lock = FileLock(home() / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            tell(f"another process changes {home()}: waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
    except OSError as error:
        raise BundleError(
            f"{home()} cannot be written: {error.strerror or error} ({HOME} names another folder)"
        ) from None
