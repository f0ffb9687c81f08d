"""Scratch folders: they go with the block they serve, and those of a run that was killed with the next
run."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

try:
    import fcntl
except ImportError:  # Windows: nothing tells there whether a run still lives
    fcntl = None

OWNER = ".owner"  # locked as long as the run lives, however it ends
RANDOM = "[a-z0-9_]{8}"  # what tempfile puts behind a prefix


@contextmanager
def scratch_folder(
    beside: Path, prefix: str, rescue: Callable[[Path], object] | None = None
) -> Iterator[Path]:
    """A new folder in `beside` for the length of a block.

    Those with the same prefix whose run was killed are removed first, each after `rescue` has seen
    it. Raises OSError where `beside` cannot be written.
    """
    _remove_left(beside, prefix, rescue)
    lock = None
    try:
        with TemporaryDirectory(prefix=prefix, dir=beside) as name:
            lock = _owned(Path(name))
            yield Path(name)
    finally:
        if lock is not None:
            os.close(lock)


def _owned(folder: Path) -> int | None:
    """The lock that says that a run lives; None where there are no locks: the folder then stays."""
    if fcntl is None:
        return None
    made = folder / f"{OWNER}.new"
    lock = os.open(made, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # some network file systems have none
        os.close(lock)
        return None
    made.rename(folder / OWNER)  # not seen before it is locked
    return lock


def _remove_left(beside: Path, prefix: str, rescue: Callable[[Path], object] | None) -> None:
    if fcntl is None:
        return
    pattern = re.compile(re.escape(prefix) + RANDOM)
    with suppress(OSError):  # what cannot be removed stays
        for folder in [path for path in beside.iterdir() if pattern.fullmatch(path.name)]:
            with suppress(OSError):
                _remove(folder, rescue)


def _remove(folder: Path, rescue: Callable[[Path], object] | None) -> None:
    """OSError where the run lives, or the folder is not ours."""
    assert fcntl is not None
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        return
    lock = os.open(folder / OWNER, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if rescue is not None:
            rescue(folder)
        shutil.rmtree(folder)
    finally:
        os.close(lock)
