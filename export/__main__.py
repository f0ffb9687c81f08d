"""`icd export` and `python -m export`: a model folder to graphs that run without torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.pull import located
from icd_engine.cli import options
from icd_engine.cli.app import run
from icd_engine.cli.report import in_units
from icd_engine.cli.terminal import print_note, print_path
from icd_engine.errors import RunnerError, SettingsError

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
        Literal["fp32", "fp16", "bf16", "int8"],
        typer.Option(
            help="Precision of UNets and text encoder; for OpenVINO, of stored weights, where int8 "
            "makes files small and is no faster, and bf16 takes half the memory of the others."
        ),
    ] = "fp32",
    layout: Annotated[
        Literal["optimum", "triton", "openvino", "web"],
        typer.Option(
            help="Folders as optimum has them, a model repository of NVIDIA Triton Inference Server, "
            "models of OpenVINO instead of ONNX, or a site that edits in the visitor's browser."
        ),
    ] = "optimum",
    unrolled: Annotated[
        bool,
        typer.Option(
            "--unrolled", help="Also write all encode hops and all decode hops as one graph each."
        ),
    ] = False,
    with_runtime: Annotated[
        bool,
        typer.Option(
            "--runtime/--no-runtime",
            help="Layout web: with onnxruntime-web, which is fetched from npm once (27 MB).",
        ),
    ] = True,
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Run every graph and compare it with torch."),
    ] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an exported folder at --out.")
    ] = False,
    yes: options.Yes = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a model as ONNX graphs, or OpenVINO's, that edit pictures without torch.

    Prints the path of the folder, which is written whole or not at all. Needs the extra onnx or
    onnx-gpu, or openvino.

    \b
    Example:
      icd export tiny --out exported
      icd export MODEL_FOLDER --out exported --precision fp16 --opset 23
      icd export MODEL_FOLDER --out repository --layout triton
      icd export MODEL_FOLDER --out exported --layout openvino
      icd export tiny --out site --layout web
    """
    if layout == "web":
        write = _exporter("export.web_site", "export_site")
        own = {"with_runtime": with_runtime}
        _check_site(opset, precision, unrolled)
    else:
        write = _exporter("export.folder", "export_bundle")
        own = {"opset": opset, "precision": precision, "layout": layout, "unrolled": unrolled}
    bundle = read_bundle(located(model, yes, quiet))
    with _bar(quiet) as report:
        manifest = write(bundle, out, verify=verify, overwrite=overwrite, report=report, **own)
    _note_graphs(manifest, out, quiet)
    print_path(out)


def _exporter(module: str, name: str) -> Callable[..., dict[str, Any]]:
    """What writes the folder. RunnerError where its packages are not installed."""
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        raise RunnerError(
            f"exporting needs torch, transformers and diffusers, and --layout web the extra onnx: {error}"
        ) from None


def _check_site(opset: int, precision: str, unrolled: bool) -> None:
    """SettingsError for an option that the layout web has not."""
    for name, given in (
        ("--opset", opset != 20),
        ("--precision", precision != "fp32"),
        ("--unrolled", unrolled),
    ):
        if given:
            raise SettingsError(f"{name} is not for the layout web, whose graphs are of one kind")


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
