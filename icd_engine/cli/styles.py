"""Styles on the command line: FILE or FILE:SCALE, as often as there are styles."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from icd_engine.bundles.baked import StyleFile
from icd_engine.cli.terminal import open_engine
from icd_engine.placement import Placement

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


def open_styled(
    model: str, quiet: bool, placement: Placement, yes: bool, styles: Sequence[StyleFile]
) -> Engine:
    """`open_engine`, and the styles put on. Raises what `Engine.load_style` does."""
    if styles and placement.runner == "auto" and not _on_cuda(placement.device):
        placement = replace(placement, runner="eager")  # graphs, if the model has some, take none
    engine = open_engine(model, quiet, placement, yes)
    for style in styles:
        engine.load_style(style.path, style.scale, both=style.both)
    return engine


def _on_cuda(device: str) -> bool:
    import torch

    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
