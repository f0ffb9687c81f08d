"""The folder that a model is written to: whether it may be, and whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from icd_engine.bundles.scratch import scratch_folder
from icd_engine.errors import BundleError, shown

RECORD = "icd.json"


def check_target(out: Path, overwrite: bool) -> None:
    """Raises BundleError unless a bundle may and can be written at `out`: free, an empty folder, or
    a bundle to overwrite, in a place that takes files."""
    try:
        _check_free(out, overwrite)
        near = next(folder for folder in out.absolute().parents if folder.exists())
        # Permissions do not tell of file systems that are read-only or full
        with TemporaryDirectory(prefix=_prefix(out), dir=near):
            pass
    except OSError as error:
        raise _unwritable(out, error) from error
    except ValueError as error:
        raise BundleError(f"{shown(str(out))} is no usable path: {error}") from error


def _check_free(out: Path, overwrite: bool) -> None:
    if out.is_dir():
        if not any(out.iterdir()):
            return
        if not overwrite:
            raise BundleError(f"{out} is not empty (overwrite replaces it)")
        if not (out / RECORD).is_file():  # a slip of the path must not erase somebody's folder
            raise BundleError(f"{out} is not a bundle, so it is not overwritten")
    elif out.exists():
        raise BundleError(f"{out} is a file, not a folder")


@contextmanager
def new_folder(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when the block ends without an error and vanishes
    otherwise; what a killed run has left of one vanishes first.

    Raises BundleError where `out` may not be written, or cannot.
    """
    check_target(out, overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the renames stay on one file system.
        with scratch_folder(out.parent, _prefix(out), partial(_put_back, out)) as scratch:
            check_target(out, overwrite)  # again: it may have been put back
            new = scratch / "new"
            new.mkdir()
            yield new
            _publish(new, out, scratch / "old")
    except OSError as error:
        raise _unwritable(out, error) from error


def _prefix(out: Path) -> str:
    return f".{out.name}."


def _unwritable(out: Path, error: OSError) -> BundleError:
    return BundleError(f"{out} cannot be written: {error.strerror or error}")


def _publish(new: Path, out: Path, old: Path) -> None:
    """Renames `new` to `out`; what was there goes to `old`, and back if the second rename fails."""
    if not out.exists():
        new.rename(out)
        return
    out.rename(old)
    try:
        new.rename(out)
    except BaseException:
        old.rename(out)
        raise


def _put_back(out: Path, scratch: Path) -> None:
    """For a run that was killed between the two renames of `_publish`."""
    if (scratch / "old").is_dir() and not out.exists():
        (scratch / "old").rename(out)
