"""`icd bench`: the repository's benchmarks; options and help are those of `python -m benchmarks`."""

from __future__ import annotations

import typer

from icd_engine.cli.child import run_from_checkout


def bench(context: typer.Context) -> None:
    """Measure the engine on this machine; runs from a checkout of the repository."""
    raise typer.Exit(run_from_checkout("benchmarks", "benchmarks", context.args))
