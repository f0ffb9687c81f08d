"""The one folder whose files a client may name, and nothing outside of it."""

from __future__ import annotations

import os
from pathlib import Path

from icd_engine.errors import ImageError, SettingsError, shown
from icd_engine.saving import SUFFIXES


class Granted:
    """A folder by its real path. Names are relative to it, or absolute within it.

    SettingsError unless it is a folder.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.path = Path(os.path.realpath(folder))
        if not self.path.is_dir():
            raise SettingsError(f"{folder} is no folder")

    def existing(self, name: str, what: str) -> Path:
        """The regular file of a name, all links followed. what: picture or mask. ImageError."""
        path = self._within(name, what)
        if not os.path.isfile(path):  # a pipe or a device would block, or never end
            raise ImageError(f"the {what} is missing, no such file in the folder: {shown(name)}")
        return path

    def new(self, name: str) -> Path:
        """Where a picture of that name is to be written; what is there stays. ImageError."""
        path = self._within(name, "picture to write")
        if path.suffix.lower() not in SUFFIXES:
            raise ImageError(f"output {shown(name)} must end in {', '.join(SUFFIXES)}")
        if os.path.lexists(path) or os.path.lexists(self.path / name):
            raise ImageError(f"output {shown(name)} is there already: choose another name")
        return path

    def _within(self, name: str, what: str) -> Path:
        try:
            path = Path(os.path.realpath(self.path / name))
        except (OSError, ValueError):  # a name with a null byte
            raise ImageError(f"{shown(name)} is no name of a file") from None
        if path == self.path or not path.is_relative_to(self.path):
            raise ImageError(f"the {what} {shown(name)} lies outside of the folder that is granted")
        return path
