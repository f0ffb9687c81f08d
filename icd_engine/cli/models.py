"""`icd models`, `icd pull` and `icd remove`: the published models that have names, and which are
here."""

from __future__ import annotations

from typing import Annotated

import typer

from icd_engine.bundles import home
from icd_engine.bundles import pull as pulling
from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.published import PUBLISHED
from icd_engine.cli import options
from icd_engine.cli.options import UsageError
from icd_engine.cli.report import in_units
from icd_engine.cli.terminal import print_line, print_note, print_path


def models() -> None:
    """List the models that have names: which are here, and what the others would take.

    \b
    Example:
      icd models
    """
    print_line(_row("tiny", "here", home.size_of(read_bundle("tiny").path), "inside the package"))
    for name, published in PUBLISHED.items():
        if home.is_here(name):
            print_line(_row(name, "here", home.size_of(home.model_folder(name)), published.what))
        else:
            print_line(_row(name, "to download", pulling.size_left(published), published.what))
    kept = sum(home.size_of(home.source_folder(source)) for source in home.all_sources())
    print_line(f"downloads that are kept: {in_units(kept)}")
    print_line(f"folder: {home.home()}")


def pull(
    name: options.PublishedName, yes: options.Yes = False, quiet: options.Quiet = False
) -> None:
    """Download a published model and make a model folder of it; prints the folder's path.

    What another model has downloaded already is not downloaded again, and a download that was ended
    goes on.

    \b
    Example:
      icd pull icd-sd15
      icd edit cat.png --source "a cat on a sofa" --target "a dog on a sofa" --model icd-sd15
    """
    print_path(pulling.pull(name, yes, quiet))


def remove(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Name of a published model.")
    ] = None,
    downloads: Annotated[
        bool,
        typer.Option(
            "--downloads", help="Remove all downloads instead; models made of them stay usable."
        ),
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Remove a published model, and its downloads but for those that another model here needs.

    \b
    Example:
      icd remove icd-sd15
      icd remove --downloads
    """
    if (name is None) != downloads:
        raise UsageError("give the NAME of a model, or --downloads")
    freed = home.remove_sources() if name is None else home.remove(name)
    print_note(f"{in_units(freed)} freed", quiet)


def _row(name: str, state: str, size: int, what: str) -> str:
    return f"{name:<17}{state:<13}{in_units(size):>10}  {what}"
