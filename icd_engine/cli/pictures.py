"""Pictures that commands write: where to, numbered files, standard output, and several side by
side."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from icd_engine.cli import options
from icd_engine.cli.options import UsageError
from icd_engine.cli.streams import STREAM, Checked, is_piped, is_terminal
from icd_engine.cli.terminal import print_note, print_path
from icd_engine.picture_files import SUFFIXES
from icd_engine.saving import image_bytes, save_image

if TYPE_CHECKING:
    from icd_engine.results import EditResult


def output(out: Path, count: int, sheet: Path | None = None) -> Path:
    """A path that so many pictures, and a contact sheet, can be written to, known before any work
    is done; a usage error otherwise."""
    if sheet is not None:
        options.check_picture_path(sheet, "--sheet")
    if str(out) != STREAM:
        if sheet is not None and os.path.abspath(sheet) == os.path.abspath(out):
            raise options.usage_error(f"{str(sheet)!r} is what --out names", "--sheet")
        return options.check_picture_path(out)
    if count > 1:
        raise options.usage_error(f"standard output holds one picture, not {count}", "--out")
    if is_terminal(sys.stdout):
        raise options.usage_error("standard output is a terminal: a picture is no text", "--out")
    return out


def beside(picture: str | None) -> Path:
    """Where edits of a picture go unless told otherwise: cat.png -> cat_edited.png, in its folder.

    Of several pictures of one name, all but the .png keep their ending: cat_edited.jpg.png. A usage
    error for what comes through a pipe, which has no name.
    """
    if picture is None:
        return Path("demo_edited.png")
    if is_piped(picture):
        raise UsageError("Missing option '--out': what comes through a pipe has no name")
    path = Path(picture)
    ending = path.suffix if path.suffix != ".png" and _has_sisters(path) else ""
    return path.parent / f"{path.stem}_edited{ending}.png"


def _has_sisters(path: Path) -> bool:
    """Whether other pictures in the folder have the same name but for the ending."""
    if path.suffix.lower() not in SUFFIXES:
        return False
    try:
        names = os.listdir(path.parent)
    except (OSError, ValueError):  # reading the picture says what is wrong
        return False
    others = (Path(name) for name in names if name != path.name)
    return any(other.stem == path.stem and other.suffix.lower() in SUFFIXES for other in others)


def tell_path(path: Path, out: Path) -> None:
    """Prints a path, on standard error where standard output is for a picture."""
    if str(out) == STREAM:
        print_note(str(path))
    else:
        print_path(path)


def save_all(pictures: Sequence[Image.Image], out: Path, **marks: Any) -> None:
    """Writes and prints `out`, or with several pictures out_1, out_2 and so on; the one picture of
    "-" is written to standard output. marks: see `save_image`."""
    if str(out) == STREAM:
        Checked(sys.stdout).write_bytes(image_bytes(pictures[0], **marks))
        return
    for i, one in enumerate(pictures, start=1):
        path = out if len(pictures) == 1 else out.with_stem(f"{out.stem}_{i}")
        print_path(save_image(one, path, **marks))


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """RGB pictures of one height in a row."""
    row = Image.new("RGB", (sum(one.width for one in pictures), pictures[0].height))
    left = 0
    for one in pictures:
        row.paste(one, (left, 0))
        left += one.width
    return row


def comparison(image: Image.Image | None, result: EditResult) -> Image.Image:
    """Source (unless it was inverted earlier: then the picture is not at hand), reconstruction and
    edits in a row."""
    first = (
        []
        if image is None
        else [image.resize(result.inversion.picture_size, Image.Resampling.BICUBIC)]
    )
    return side_by_side([*first, result.reconstruction, *result.images])
