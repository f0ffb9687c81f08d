"""Pictures as clients send and get them: base64, or files of the granted folder; within limits."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from icd_engine.errors import ImageError
from icd_engine.images import read_picture
from icd_engine.integrations.mcp.folder import Granted
from icd_engine.masks import read_mask
from icd_engine.picture_files import FORMATS, MEGA, read_file
from icd_engine.saving import image_bytes, save_image

DATA_URL = re.compile(r"data:[\w.+/-]*(?:;[\w=.+-]+)*;base64,", re.IGNORECASE)


@dataclass(frozen=True)
class Pictures:
    """How pictures come in and go out.

    folder: whose files may be named; None: no files at all. pixels, file_bytes: the most that one
    may have. marks: what `save_image` is told of every picture.
    """

    folder: Granted | None = None
    pixels: int = 16 * MEGA
    file_bytes: int = 16 * 2**20
    marks: Mapping[str, Any] = field(default_factory=dict)

    def read(self, given: str | Mapping[str, Any]) -> tuple[Image.Image, bytes]:
        """A picture and the file it was read from. ImageError."""
        data = self._bytes(given, "picture")
        self._check_pixels(data, "picture")
        picture = read_picture(data)
        self._check_size(picture.size, "picture")
        return picture, data

    def read_mask(self, given: str | Mapping[str, Any], alpha: str | None) -> bytes:
        """The file of a mask that can be read. ImageError."""
        data = self._bytes(given, "mask")
        self._check_pixels(data, "mask")
        height, width = read_mask(data, alpha).shape
        self._check_size((width, height), "mask")
        return data

    def check_output(self, name: str | None) -> None:
        """Whether a file of that name can be written, before any work is done. ImageError."""
        if name is not None:
            self._granted().new(name)

    def write(self, picture: Image.Image, name: str, source: bytes | None) -> Path:
        """Writes a new file of the folder. source: that of the picture that was edited."""
        return save_image(picture, self._granted().new(name), **self._marks(source))

    def encoded(self, picture: Image.Image, source: bytes | None) -> bytes:
        """A PNG file."""
        return image_bytes(picture, **self._marks(source))

    def _marks(self, source: bytes | None) -> dict[str, Any]:
        """A signature names the picture that was edited."""
        parent = {"parent": source} if "signature" in self.marks else {}
        return {**self.marks, **parent}

    def _bytes(self, given: str | Mapping[str, Any], what: str) -> bytes:
        if isinstance(given, Mapping):
            data = self._decoded(str(given.get("data", "")), what)
        elif begin := DATA_URL.match(given):
            data = self._decoded(given[begin.end() :], what)
        else:
            data = read_file(str(self._granted(what).existing(given, what)), what)
        if len(data) > self.file_bytes:
            raise ImageError(f"the {what} file is larger than {self.file_bytes / 2**20:g} MiB")
        return data

    def _decoded(self, text: str, what: str) -> bytes:
        if len(text) > self.file_bytes * 4 // 3 + 4:
            raise ImageError(f"the {what} file is larger than {self.file_bytes / 2**20:g} MiB")
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise ImageError(f"the {what} is not base64") from None

    def _granted(self, what: str = "picture") -> Granted:
        if self.folder is None:
            raise ImageError(
                f"no folder is granted, so no {what} can be named by its file: send its data"
            )
        return self.folder

    def _check_pixels(self, data: bytes, what: str) -> None:
        """By the file's header, before its pixels are decoded; what has none is refused later."""
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                size = picture.size
        except (
            Exception
        ):  # damaged files raise nearly anything, and reading them says what is wrong
            return
        self._check_size(size, what)

    def _check_size(self, size: tuple[int, int], what: str) -> None:
        if size[0] * size[1] > self.pixels:
            raise ImageError(f"the {what} has more than {self.pixels / MEGA:g} megapixels")
