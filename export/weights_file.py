"""The weights of all graphs of one folder in one file: what several of them hold is written once."""

from __future__ import annotations

import hashlib
from pathlib import Path

PAGE = 4096  # where large tensors begin, so that they can be mapped into memory
LINE = 64  # where small ones do


class WeightsFile:
    """A file that tensors are appended to."""

    def __init__(self, path: Path):
        self.path = path
        self._written: dict[bytes, tuple[int, int]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def place(self, data: bytes | memoryview) -> tuple[int, int]:
        """Where a tensor's bytes are: offset and length."""
        key = hashlib.sha256(data).digest()
        if key not in self._written:
            with self.path.open("ab") as file:
                file.write(bytes(-file.tell() % (PAGE if len(data) >= PAGE else LINE)))
                self._written[key] = file.tell(), len(data)
                file.write(data)
        return self._written[key]
