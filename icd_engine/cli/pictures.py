"""Pictures that commands write: numbered files, and several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from icd_engine.cli.terminal import print_path
from icd_engine.saving import save_image

if TYPE_CHECKING:
    from icd_engine.results import EditResult


def save_all(pictures: Sequence[Image.Image], out: Path, **marks: Any) -> None:
    """Writes and prints `out`, or with several pictures out_1, out_2 and so on; marks: see
    `save_image`."""
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
