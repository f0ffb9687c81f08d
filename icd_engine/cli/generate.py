"""`icd generate`: pictures of prompts, from noise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icd_engine.cli import options, origin
from icd_engine.cli.options import MODELS_OWN
from icd_engine.cli.pictures import output, save_all
from icd_engine.cli.styles import Styles, open_styled, style_files
from icd_engine.cli.terminal import hop_bar
from icd_engine.placement import PLAIN


@options.placed
def generate(
    prompts: Annotated[
        list[str], typer.Argument(help="What each picture shows.", metavar="PROMPT...")
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="File to write; overwritten. Several prompts: numbered _1, _2, ... - for standard output, as PNG.",
        ),
    ] = Path("generated.png"),
    model: options.Model = "tiny",
    yes: options.Yes = False,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N", help="Seed of the first picture; the next takes N + 1, and so on."
        ),
    ] = 0,
    guidance_scale: options.GuidanceScale = None,
    tau: options.Tau = None,
    tau_low: options.TauLow = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="WxH", help="Size of the pictures.", show_default=MODELS_OWN),
    ] = None,
    style: Styles = None,
    placement: options.Placed = PLAIN,
    provenance: origin.Provenance = True,
    c2pa_cert: origin.C2paCert = None,
    c2pa_key: origin.C2paKey = None,
    c2pa_time: origin.C2paTime = None,
    watermark: origin.Watermark = False,
    quiet: options.Quiet = False,
) -> None:
    """Generate one picture for each prompt.

    Prints the paths of what it wrote. Existing files are overwritten.

    \b
    Example:
      icd generate "a small red circle on a plain blue background" --seed 3 --out circle.png
    """
    settings = options.given(
        seed=seed, guidance_scale=guidance_scale, tau=options.share("--tau", tau), tau_low=tau_low
    )
    wanted_size = options.size(size)
    output(out, len(prompts))
    marks = origin.marks(provenance, c2pa_cert, c2pa_key, c2pa_time, watermark)
    engine = open_styled(model, quiet, placement, yes, style_files(style, both=False))
    with hop_bar(len(engine.bundle.decode_times), quiet) as progress:
        pictures = engine.generate(prompts, size=wanted_size, progress=progress, **settings)
    save_all(pictures, out, source_type="trainedAlgorithmicMedia", **marks)
