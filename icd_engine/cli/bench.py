"""`icd bench`: the repository's benchmarks, in a process of their own: they are no part of the
installed package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from icd_engine.cli import options
from icd_engine.cli.child import run_from_checkout

What = Literal["edit", "throughput", "onnx", "export", "published", "ops", "unet", "vae"]


def bench(
    what: Annotated[What, typer.Argument(help="What to measure.")],
    model: options.Model = "tiny",
    architecture: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Random weights in a published shape instead of a model: sd15, sdxl, small, small-xl.",
            show_default="sd15 for unet and vae",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS", min=1, help="Side of the pictures.", show_default=options.MODELS_OWN
        ),
    ] = None,
    baseline: Annotated[
        Literal["reference", "lean", "compiled"] | None,
        typer.Option(
            help="Measure the edit beside diffusers' modules too, in the same run.",
            show_default="none",
        ),
    ] = None,
    runner: options.RunnerName = "auto",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Of the CPU.", show_default="torch's choice"),
    ] = None,
    repeats: Annotated[
        int, typer.Option(metavar="N", min=1, help="Measured calls of each subject.")
    ] = 10,
    warmup: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Unmeasured calls before.",
            show_default="2 on the CPU, 5 on CUDA",
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Append the results to FOLDER/<device>.jsonl."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Measure the engine on this machine; runs from a checkout of the repository.

    What is measured is checked first and refused where it is wrong. Numbers for people go to
    stderr.

    \b
    Example:
      icd bench edit --model tiny --baseline reference --json
      icd bench edit --architecture sd15 --size 512 --repeats 3
      icd bench ops
    """
    given = {
        "--model": model,
        "--architecture": architecture,
        "--size": size,
        "--baseline": baseline,
        "--runner": runner,
        "--device": device,
        "--dtype": dtype,
        "--threads": threads,
        "--repeats": repeats,
        "--warmup": warmup,
        "--record": record,
    }
    raise typer.Exit(run_from_checkout("benchmarks", "benchmarks", [what], given, {"--json": json}))
