"""`icd batch`: every row of a manifest edited, on this machine or a cluster, by a run that may be
killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from icd_engine.bundles.pull import located
from icd_engine.cli import options
from icd_engine.cli.terminal import picture_bar, print_note, print_path
from icd_engine.placement import PLAIN


@options.placed
def batch(
    manifest: Annotated[
        Path,
        typer.Argument(
            help=".parquet, .csv or .jsonl file with picture, source, target; also id, settings (JSON), seed.",
            metavar="MANIFEST",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Folder to write <id>.png, results.jsonl and summary.json to; an unfinished run there goes on.",
        ),
    ],
    model: options.Model = "tiny",
    yes: options.Yes = False,
    rows: Annotated[
        int, typer.Option("--batch", metavar="N", min=1, help="Most rows edited together.")
    ] = 8,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Edit only the first N rows.", show_default="all"),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Number from which rows without a seed take theirs.")
    ] = 0,
    settings: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="Settings of all rows; a row's own come first. Paths in them start where the row's do.",
            show_default="model's own",
        ),
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Number of engines.",
            show_default="one a GPU, or one a machine",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="CPUs of each engine.",
            show_default="all but one; 1 with a GPU",
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address of a Ray cluster whose machines see the same folders.",
            show_default="none",
        ),
    ] = None,
    placement: options.Placed = PLAIN,
    provenance: options.Provenance = True,
    quiet: options.Quiet = False,
) -> None:
    """Edit every row of a manifest.

    A row that cannot be edited is a line of results.jsonl with the error's name, and the run goes
    on. A run that was killed goes on with the same command, and ends with the same pictures. Prints
    the path of results.jsonl. It needs pip install 'icd-engine[batch]'.

    \b
    Example:
      icd batch edits.csv --out edited --model MODEL_FOLDER
      icd batch edits.parquet --out /shared/edited --address auto --settings '{"guidance_scale": 3}'
    """
    options.check_any_device(placement)
    from icd_engine.batch.log import RESULTS
    from icd_engine.batch.run import run_batch

    folder = str(located(model, yes, quiet))
    with picture_bar(quiet) as progress:
        summary = run_batch(
            manifest,
            out,
            model=folder,
            batch=rows,
            limit=limit,
            seed=seed,
            settings=_settings(settings),
            actors=actors,
            threads=threads,
            address=address,
            provenance=provenance,
            progress=progress,
            placement=placement,
        )
    wrong = ", ".join(f"{count} {name}" for name, count in summary.errors.items()) or "no errors"
    before = f" after {summary.resumed} rows of earlier runs" if summary.resumed else ""
    speed = f"{summary.seconds:.1f} s{before}, {summary.pictures_per_second:.2f} pictures/s"
    print_note(f"{summary.pictures} pictures, {wrong}; {speed}", quiet)
    print_path(out / RESULTS)


def _settings(text: str | None) -> dict[str, Any]:
    try:
        values = json.loads(text or "{}")
    except ValueError as error:
        raise options.usage_error(f"not JSON: {error}", "--settings") from None
    if not isinstance(values, dict):
        raise options.usage_error(f"{text!r} must be a JSON object", "--settings")
    return values
