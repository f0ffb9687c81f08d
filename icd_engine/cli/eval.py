"""`icd eval`: how well edits are, in a process of its own: suites and other methods are no part of
the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from icd_engine.cli import options
from icd_engine.cli.child import run_from_checkout


def evaluate(
    suite: Annotated[
        Literal["tiny", "pie", "pairs", "generate"],
        typer.Option(help="What is edited or generated."),
    ] = "tiny",
    path: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="PIE-Bench's folder; a CSV of pairs; a CSV of prompts, or one a line.",
        ),
    ] = None,
    count: Annotated[int, typer.Option(metavar="N", min=1, help="Items at most.")] = 100,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Of drawn scenes and generated pictures.")
    ] = 2025,
    model: options.Model = "tiny",
    methods: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="icd, icd-auto, and of ddim, ddim+p2p, npi, nti, edit-friendly, infedit, renoise, sdedit; all.",
        ),
    ] = "icd",
    teacher: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Undistilled UNet of the other methods.", show_default="tiny's"
        ),
    ] = None,
    clip: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="CLIP model, for its agreement.")
    ] = None,
    dino: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="DINO model, for structure distance.")
    ] = None,
    dinov2: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="DINOv2 model, for likeness.")
    ] = None,
    lpips: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="torchvision's SqueezeNet, AlexNet or VGG16, for LPIPS."),
    ] = None,
    studies: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON of studies, for the paper's orderings.",
            show_default="the recorded",
        ),
    ] = None,
    settings: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Settings of icd.", show_default=options.MODELS_OWN),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Rows, results.json, report.html; resumed.")
    ] = Path("out/eval"),
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    runner: options.RunnerName = "auto",
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Of the CPU.", show_default="torch's choice"),
    ] = None,
    quiet: options.Quiet = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Edit a suite of pictures, measure the edits, compare with other methods; runs from a checkout
    of the repository.

    Writes a table, results.json and one self-contained page. An interrupted run goes on where it
    stopped; another run in the same folder starts anew. Weights of metrics are never downloaded:
    those not given leave n/a.

    \b
    Example:
      icd eval --suite tiny --json
      icd eval --suite tiny --count 24 --methods all --out out/methods
      icd eval --suite pie --path PIE-Bench_v1 --model icd-sd15 --clip clip-vit-large-patch14 --dino dino-vitb8
      icd eval --suite generate --path prompts.txt
    """
    given = {
        "--suite": suite,
        "--path": path,
        "--count": count,
        "--seed": seed,
        "--model": model,
        "--methods": methods,
        "--teacher": teacher,
        "--clip": clip,
        "--dino": dino,
        "--dinov2": dinov2,
        "--lpips": lpips,
        "--studies": studies,
        "--settings": settings,
        "--out": out,
        "--device": device,
        "--dtype": dtype,
        "--runner": runner,
        "--threads": threads,
    }
    raise typer.Exit(
        run_from_checkout(
            "benchmarks.evaluation", "evaluations", [], given, {"--json": json, "--quiet": quiet}
        )
    )
