"""`icd convert`: published checkpoints to a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from icd_engine.cli import options
from icd_engine.cli.report import describe
from icd_engine.cli.styles import StyleBoth, Styles, style_files
from icd_engine.cli.terminal import print_note, print_path

Times = Annotated[
    str | None,
    typer.Option(
        metavar="T,T,...",
        help="Ascending time steps of the network; they go over what its file's name tells.",
        show_default="from file names, else as published",
    ),
]


def convert(
    base: Annotated[
        Path,
        typer.Option(
            help="Base model: diffusers folder, or a single .safetensors or .ckpt file.",
            metavar="FOLDER|FILE",
        ),
    ],
    teacher: Annotated[
        Path,
        typer.Option(
            help="Guidance-distilled UNet: .pt, .safetensors, its folder, or the authors' .tar.gz.",
            metavar="FILE|FOLDER",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Model folder to write.", metavar="FOLDER")],
    lora: Annotated[
        Path | None,
        typer.Option(
            help="Both LoRA files: the authors' .tar.gz, or a folder.", metavar="ARCHIVE|FOLDER"
        ),
    ] = None,
    forward: Annotated[
        Path | None,
        typer.Option(
            help="LoRA file of the encode (forward) model, instead of --lora.", metavar="FILE"
        ),
    ] = None,
    reverse: Annotated[
        Path | None,
        typer.Option(
            help="LoRA file of the decode (reverse) model, instead of --lora.", metavar="FILE"
        ),
    ] = None,
    decode_steps: Times = None,
    encode_steps: Times = None,
    precision: Annotated[
        Literal["fp32", "fp16", "bf16"],
        typer.Option(help="Precision of the weights that are written."),
    ] = "fp32",
    base_config: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FOLDER",
            help="Configurations of a single file: sd15, sd21, sd21-base, sdxl, or a diffusers folder.",
            show_default="as its keys tell",
        ),
    ] = None,
    style: Styles = None,
    style_both: StyleBoth = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model folder at --out.")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a model folder of published files, for SD1.5 or SDXL.

    Every tensor must fit. Prints the path of the folder, which is written whole or not at all.
    Instead of a path, each may be a repository of the Hugging Face hub, OWNER/NAME.

    \b
    Example:
      icd convert --base stable-diffusion-v1-5 --teacher sd15_cfg_distill.pt.tar.gz \\
        --lora iCD-SD15_4steps_1.tar.gz --out icd-sd15 --precision fp16
    """
    from icd_engine.bundles import convert as published

    forward = forward or lora
    reverse = reverse or lora
    if forward is None or reverse is None:
        raise options.usage_error("give --lora, or --forward and --reverse", "--lora")
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
        styles=style_files(style, style_both),
        base_config=base_config,
    )
    for name, text in describe(bundle):
        print_note(f"{name:<16}{text}", quiet)
    for note in bundle.origin.get("notes", []):
        print_note(f"{'note':<16}{note}", quiet)
    print_path(bundle.path)


def _times(option: str, text: str | None) -> list[int] | None:
    """ "259,519" -> [259, 519]."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise options.usage_error(
            f"{text!r} must be whole numbers with commas between them", option
        )
    return [int(part) for part in parts]
