"""`icd eval`: how well edits are; options and help are those of `python -m benchmarks.evaluation`."""

from __future__ import annotations

import typer

from icd_engine.cli.child import run_from_checkout


def evaluate(context: typer.Context) -> None:
    """Edit a suite of pictures, measure the edits, compare with other methods; runs from a checkout
    of the repository."""
    raise typer.Exit(run_from_checkout("benchmarks.evaluation", "evaluations", context.args))
