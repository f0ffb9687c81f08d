"""`icd invert`: a picture to noise, kept in a file, so that re-edits cost the decode hops
only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from icd_engine.cli import options
from icd_engine.cli.streams import read_given
from icd_engine.cli.styles import StyleBoth, Styles, open_styled, style_files
from icd_engine.cli.terminal import hop_bar, print_path
from icd_engine.images import read_picture
from icd_engine.placement import PLAIN


@options.placed
def invert(
    picture: Annotated[
        str, typer.Argument(help="Picture file, - for standard input.", metavar="PICTURE")
    ],
    source: Annotated[str, typer.Option(metavar="TEXT", help="What the picture shows.")],
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="File to write, ending in .safetensors; overwritten."),
    ],
    model: options.Model = "tiny",
    yes: options.Yes = False,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Seed of the noise that is added before encoding.",
            show_default=options.MODELS_OWN,
        ),
    ] = None,
    size: options.Size = None,
    style: Styles = None,
    style_both: StyleBoth = False,
    placement: options.Placed = PLAIN,
    quiet: options.Quiet = False,
) -> None:
    """Encode a picture to noise once, for many edits.

    Prints the path of what it wrote. An existing file is overwritten.

    \b
    Example:
      icd invert cat.png --source "a cat on a sofa" --out cat.safetensors --model MODEL_FOLDER
      icd edit cat.safetensors --target "a dog on a sofa" --model MODEL_FOLDER
    """
    if out.suffix.lower() != ".safetensors" or os.path.isdir(out):
        raise options.usage_error(f"{str(out)!r} must be a file ending in .safetensors", "--out")
    settings = options.given(seed=seed)
    wanted_size = options.size(size)
    image = read_picture(read_given(picture))
    engine = open_styled(model, quiet, placement, yes, style_files(style, style_both))
    with hop_bar(len(engine.bundle.encode_times), quiet) as progress:
        inversion = engine.invert(image, source, size=wanted_size, progress=progress, **settings)
    print_path(inversion.save(out))
