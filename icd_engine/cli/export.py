"""`icd export`: ONNX graphs of a model; options and help are those of `python -m export`."""

from __future__ import annotations

import typer

from icd_engine.cli.child import run_module


def export(context: typer.Context) -> None:
    """Write a model as ONNX graphs that edit pictures without torch."""
    raise typer.Exit(run_module("export", context.args))
