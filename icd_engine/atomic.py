"""A file that is written whole or not at all."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from icd_engine.errors import IcdError, shown


def write_whole(path: str | os.PathLike[str], data: bytes, error: type[IcdError]) -> Path:
    """Puts `data` at `path` in one step: whoever looks there finds all of it or what was there
    before.

    Missing folders are made. Raises `error` where it cannot be written, and leaves nothing behind.
    Returns the path.
    """
    if not isinstance(path, str | os.PathLike):
        raise error(f"a path is needed to write to, not {shown(path)}")
    target = Path(path)
    part = None
    try:
        # The same folder, so that the rename is atomic
        part = target.with_name(f".{secrets.token_hex(8)}.part")
        target.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(target)
    except (OSError, ValueError) as reason:
        told = getattr(reason, "strerror", None) or "not a usable path"
        raise error(f"cannot write {shown(os.fspath(path))}: {told}") from None
    finally:
        if part is not None:
            with suppress(OSError, ValueError):  # the error that matters is the one being raised
                part.unlink(missing_ok=True)
    return target
