"""`python -m training.world`: pairs of pictures and true edits, or a sheet of scenes to look at."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from training.world.drawing import draw_batch
from training.world.pairs import sample_pairs, write_pairs
from training.world.scenes import PICTURE_SIZE, Scene, sample_scene


def contact_sheet(scenes: Sequence[Scene], columns: int = 6) -> Image.Image:
    """Pictures with their captions below, to be looked at."""
    width = PICTURE_SIZE + 20
    height = PICTURE_SIZE + 36
    sheet = Image.new("RGB", (columns * width, -(-len(scenes) // columns) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (scene, picture) in enumerate(zip(scenes, draw_batch(scenes), strict=True)):
        x = i % columns * width + 10
        y = i // columns * height + 4
        sheet.paste(Image.fromarray(picture), (x, y))
        pen.text(
            (x, y + PICTURE_SIZE + 2),
            scene.caption.replace(" on ", "\non "),
            fill="black",
            font_size=9,
        )
    return sheet


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.world", description=(__doc__ or "").split(": ", 1)[1]
    )
    parser.add_argument(
        "--pairs", type=int, metavar="N", help="write N pairs of pictures and true edits to --out"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="DIR")
    parser.add_argument(
        "--kinds",
        default="color,background,shape",
        help="what to edit, in turn (default: %(default)s)",
    )
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE", help="write a contact sheet of random scenes"
    )
    options = parser.parse_args(arguments)
    if options.pairs is None and options.sheet is None:
        parser.error("nothing to do: give --pairs N --out DIR, or --sheet FILE")
    if options.pairs is not None:
        if options.pairs < 1 or options.out is None:
            parser.error("--pairs needs a number above 0, and --out")
        try:
            pairs = sample_pairs(options.pairs, options.seed, options.kinds.split(","))
        except ValueError as error:
            parser.error(str(error))
        print(write_pairs(pairs, options.out))
    if options.sheet is not None:
        rng = np.random.default_rng(options.seed)
        contact_sheet([sample_scene(rng) for _ in range(48)]).save(options.sheet)
        print(options.sheet)


if __name__ == "__main__":
    main()
