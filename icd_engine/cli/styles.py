"""Styles on the command line: FILE or FILE:SCALE, as often as there are styles."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from icd_engine.bundles.baked import StyleFile

if TYPE_CHECKING:
    from icd_engine.engine import Engine

Styles = Annotated[
    list[str] | None,
    typer.Option(
        "--style",
        metavar="FILE[:SCALE]",
        help="LoRA of your own on top of the decode network, or a token's vectors (repeat it).",
        show_default="none; scale 1",
    ),
]
StyleBoth = Annotated[
    bool, typer.Option("--style-both", help="Put styles on the encode network too.")
]


def style_files(texts: Sequence[str] | None, both: bool) -> list[StyleFile]:
    """What `--style` names; a scale is a number behind the last colon."""
    found = []
    for text in texts or ():
        path, colon, end = text.rpartition(":")
        scale = _number(end) if colon and not os.path.exists(text) else None
        found.append(StyleFile(text, 1.0, both) if scale is None else StyleFile(path, scale, both))
    return found


def put_on(engine: Engine, styles: Sequence[StyleFile]) -> None:
    """Loads styles into an engine. Raises what `Engine.load_style` does."""
    for style in styles:
        engine.load_style(style.path, style.scale, both=style.both)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
