"""A file that is written whole or not at all."""

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from icd_engine.errors import IcdError, shown

_OF_THE_FILE = 0o777  # of st_mode: what writing to the file in place would leave as it is
_EFFECTIVE = os.access in os.supports_effective_ids


def write_whole(path: str | os.PathLike[str], data: bytes, error: type[IcdError]) -> Path:
    """Puts `data` at `path` in one step: whoever looks there finds all of it or what was there
    before.

    Missing folders are made. As with any file that is opened to write, a symbolic link stays and
    what it leads to is written; an existing file keeps its permissions, and its owner and group
    where the system allows that; one that may not be written is refused; a new one obeys the umask.
    What is no plain file (a pipe, a device) is written to as it comes. Raises `error` where it
    cannot be written, and leaves nothing behind. Returns the path.
    """
    if not isinstance(path, str | os.PathLike):
        raise error(f"a path is needed to write to, not {shown(path)}")
    try:
        _write(_target(path), data)
    except (OSError, ValueError) as reason:
        told = getattr(reason, "strerror", None) or "not a usable path"
        raise error(f"cannot write {shown(os.fspath(path))}: {told}") from None
    return Path(path)


def _target(path: str | os.PathLike[str]) -> Path:
    """Where links lead to, also where nothing is there yet."""
    target = Path(path)
    if not target.is_symlink():
        return target
    target = Path(os.path.realpath(target))
    if target.is_symlink():  # links that lead to each other
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return target


def _write(target: Path, data: bytes) -> None:
    before = _status(target)
    if before is not None and not stat.S_ISREG(before.st_mode):
        target.write_bytes(data)
        return
    # Renaming would ask for the folder's permission alone
    if before is not None and not os.access(target, os.W_OK, effective_ids=_EFFECTIVE):
        raise PermissionError(errno.EACCES, "the file has no write permission")
    # The same folder, so that the rename is atomic
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # What replaces a private file is private from the first byte on
        part.touch(0o666 if before is None else 0o600, exist_ok=False)
        part.write_bytes(data)
        if before is not None:
            _restore(part, before)
        part.replace(target)
    finally:
        with suppress(OSError, ValueError):  # the error that matters is the one being raised
            part.unlink(missing_ok=True)


def _status(target: Path) -> os.stat_result | None:
    """None where nothing is there."""
    try:
        return target.stat()
    except FileNotFoundError:
        return None


def _restore(part: Path, before: os.stat_result) -> None:
    """Permissions, owner and group of the file that is replaced."""
    mode = stat.S_IMODE(before.st_mode) & _OF_THE_FILE
    if hasattr(os, "chown"):  # not on Windows
        with suppress(OSError):  # giving files away is for the superuser
            os.chown(part, before.st_uid, -1)
        try:
            os.chown(part, -1, before.st_gid)
        except OSError:
            # What the group might do, another group must not: it may do what everybody may
            mode = mode & ~0o070 | (mode & 0o007) << 3
    part.chmod(mode)
