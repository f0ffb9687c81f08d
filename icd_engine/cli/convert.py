"""`icd convert`: published checkpoints to a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from icd_engine.cli import options
from icd_engine.cli.report import describe
from icd_engine.cli.terminal import print_note, print_path

Times = Annotated[
    str | None,
    typer.Option(
        metavar="T,T,...",
        help="Time steps, ascending, where file names do not tell.",
        show_default="from the file names",
    ),
]


def convert(
    base: Annotated[Path, typer.Option(help="Diffusers folder of the base model.", metavar="FOLDER")],
    teacher: Annotated[
        Path, typer.Option(help="Guidance-distilled UNet: .pt, .safetensors or its folder.", metavar="FILE|FOLDER")
    ],
    forward: Annotated[Path, typer.Option(help="LoRA of the forward (encode) model, .safetensors.", metavar="FILE")],
    reverse: Annotated[Path, typer.Option(help="LoRA of the reverse (decode) model, .safetensors.", metavar="FILE")],
    out: Annotated[Path, typer.Option(help="Model folder to write.", metavar="FOLDER")],
    decode_steps: Times = None,
    encode_steps: Times = None,
    precision: Annotated[Literal["fp32", "fp16", "bf16"], typer.Option(help="Of the weights written.")] = "fp32",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model folder at --out.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a model folder of published files.

    Every tensor must fit. Prints the path of the folder, which is written whole or not at all.

    \b
    Example:
      icd convert --base stable-diffusion-v1-5 --teacher sd15_cfg_distill.pt --forward iCD-SD15-forward.safetensors \\
        --reverse iCD-SD15-reverse.safetensors --out sd15-icd --precision fp16
    """
    from icd_engine.bundles import convert as published

    bundle = published.convert(
        base,
        teacher,
        forward,
        reverse,
        out,
        decode_times=_times("--decode-steps", decode_steps),
        encode_times=_times("--encode-steps", encode_steps),
        precision=precision,
        overwrite=overwrite,
    )
    for name, text in describe(bundle):
        print_note(f"{name:<14}{text}", quiet)
    for note in bundle.origin.get("notes", []):
        print_note(f"{'note':<14}{note}", quiet)
    print_path(bundle.path)


def _times(option: str, text: str | None) -> list[int] | None:
    """ "259,519" -> [259, 519]."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise options.usage_error(f"{text!r} must be whole numbers with commas between them", option)
    return [int(part) for part in parts]
