"""`icd export` and `python -m export`: a model folder to ONNX graphs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.pull import located
from icd_engine.cli import options
from icd_engine.cli.app import run
from icd_engine.cli.report import in_units
from icd_engine.cli.terminal import print_note, print_path
from icd_engine.errors import RunnerError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def export(
    model: options.ModelArgument,
    out: Annotated[Path, typer.Option(help="Folder to write.", metavar="FOLDER")],
    opset: Annotated[
        int,
        typer.Option(
            help="ONNX opset: 20, or 23 with its Attention and GroupNormalization nodes.",
            metavar="N",
        ),
    ] = 20,
    precision: Annotated[
        Literal["fp32", "fp16"], typer.Option(help="Precision of UNets and text encoder.")
    ] = "fp32",
    layout: Annotated[
        Literal["optimum", "triton"],
        typer.Option(
            help="Folders as optimum has them, or a model repository of NVIDIA Triton Inference Server."
        ),
    ] = "optimum",
    unrolled: Annotated[
        bool,
        typer.Option(
            "--unrolled", help="Also write all encode hops and all decode hops as one graph each."
        ),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify", help="Run every graph by onnxruntime and compare it with torch."
        ),
    ] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an exported folder at --out.")
    ] = False,
    yes: options.Yes = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a model as ONNX graphs that edit pictures without torch.

    Prints the path of the folder, which is written whole or not at all. Needs the extra onnx or
    onnx-gpu.

    \b
    Example:
      icd export tiny --out exported
      icd export MODEL_FOLDER --out exported --precision fp16 --opset 23
      icd export MODEL_FOLDER --out repository --layout triton
    """
    write = _exporter()
    bundle = read_bundle(located(model, yes, quiet))
    with _bar(quiet) as report:
        manifest = write(
            bundle,
            out,
            opset=opset,
            precision=precision,
            layout=layout,
            unrolled=unrolled,
            verify=verify,
            overwrite=overwrite,
            report=report,
        )
    _note_graphs(manifest, out, quiet)
    print_path(out)


def _exporter() -> Callable[..., dict[str, Any]]:
    """What writes the folder. RunnerError where its packages are not installed."""
    try:
        from export.folder import export_bundle
    except ImportError as error:
        raise RunnerError(
            f"exporting needs pip install 'icd-engine[onnx]' (or onnx-gpu): {error}"
        ) from None
    return export_bundle


def _note_graphs(manifest: dict[str, Any], out: Path, quiet: bool) -> None:
    """Each graph with its distance from torch, and what all of them take on the disk."""
    for name, entry in manifest["graphs"].items():
        error = (
            "not checked"
            if entry["error"] is None
            else f"differs from torch by {entry['error']:.1e}"
        )
        print_note(f"{name:<14}{entry['file']:<36}{error}", quiet)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print_note(f"{'size on disk':<14}{in_units(size)}", quiet)


@contextmanager
def _bar(quiet: bool) -> Iterator[Callable[[str, int, int], Any]]:
    """Which graph is being written, as a bar on a terminal and as lines elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield lambda name, done, total: print_note(
            f"exporting {name} ({done + 1} of {total})", quiet
        )
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("exporting {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        yield lambda name, done, total: bar.update(
            task, description=name, completed=done, total=total
        )


if __name__ == "__main__":
    sys.exit(run(app, sys.argv[1:], "icd export"))
