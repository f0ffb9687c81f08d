"""`icd edit`: a picture, or a kept inversion, towards one target prompt or several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icd_engine.cli import options, origin
from icd_engine.cli.asked import Asked
from icd_engine.cli.options import MODELS_OWN, UsageError
from icd_engine.cli.pictures import beside, comparison, output, save_all, tell_path
from icd_engine.cli.styles import StyleBoth, Styles, open_styled, style_files
from icd_engine.cli.terminal import print_note
from icd_engine.placement import PLAIN
from icd_engine.saving import QUALITY, save_image
from icd_engine.settings import Control, MaskAlpha, MaskFrom


@options.placed
def edit(
    picture: Annotated[
        str | None,
        typer.Argument(
            help="Picture file, - for standard input, or a .safetensors file of `icd invert`.",
            metavar="PICTURE",
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the picture shows.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="What it should show. Several: one picture each, numbered _1, _2, ...",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="PNG, JPEG, WEBP or AVIF file to write; overwritten. - for standard output, as PNG.",
            show_default="beside PICTURE: its name + _edited.png",
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Write one picture: source, reconstruction, edits, side by side."
        ),
    ] = False,
    auto: Annotated[
        bool | None,
        typer.Option(
            "--auto/--no-auto",
            help="Attention control and blend words as suits this edit; those that are given stay. One target.",
            show_default=MODELS_OWN,
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Try all settings one by one, keep the best, write them as small pictures here.",
        ),
    ] = None,
    edits: Annotated[
        int, typer.Option(metavar="N", min=1, help="Most edits that --sheet tries.")
    ] = 34,
    demo: Annotated[
        bool, typer.Option("--demo", help="Edit the model's own example; implies --compare.")
    ] = False,
    model: options.Model = "tiny",
    yes: options.Yes = False,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Seed of the noise that is added before encoding.",
            show_default=MODELS_OWN,
        ),
    ] = None,
    guidance_scale: options.GuidanceScale = None,
    tau: options.Tau = None,
    tau_low: options.TauLow = None,
    control: Annotated[
        Control | None,
        typer.Option(help="How attention follows the source.", show_default=MODELS_OWN),
    ] = None,
    cross_replace: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SHARE|FROM,TO|WORD=...",
            help="Share or window of the decode calls that keep the source's text attention, for all words or by "
            "target word (repeat it; default=... for other words).",
            show_default=MODELS_OWN,
        ),
    ] = None,
    self_replace: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE|FROM,TO", help="The same for self-attention.", show_default=MODELS_OWN
        ),
    ] = None,
    amplify: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD=FACTOR",
            help="Strengthen a target word (repeat it).",
            show_default=MODELS_OWN,
        ),
    ] = None,
    blend: Annotated[
        str | None,
        typer.Option(
            metavar="WORDS|SOURCE:TARGET",
            help="Change only where these words are seen; commas between words.",
            show_default=MODELS_OWN,
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Picture that is white where the edit may change something; grey is how strongly.",
            show_default="all may",
        ),
    ] = None,
    mask_alpha: Annotated[
        MaskAlpha | None,
        typer.Option(
            help="Of a mask with transparency, what may change: what is painted, or its hole.",
            show_default="painted, where that is one colour",
        ),
    ] = None,
    mask_from: Annotated[
        MaskFrom | None,
        typer.Option(
            help="Change only where the words of --blend are, or those that differ between the prompts.",
            show_default="no such mask",
        ),
    ] = None,
    paste_back: Annotated[
        bool | None,
        typer.Option(
            "--paste-back/--no-paste-back",
            help="Keep the original's own pixels outside masks and --blend.",
            show_default="with a mask",
        ),
    ] = None,
    feather: Annotated[
        float | None,
        typer.Option(
            metavar="PIXELS",
            help="Width of the ring over which the edit fades in, inside of the mask.",
            show_default="half a cell of the latents",
        ),
    ] = None,
    anchor: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="How far the edit is held to the picture's encoding; 0: the paper's own decoding.",
            show_default=MODELS_OWN,
        ),
    ] = None,
    detail: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="How much of what the VAE lost comes back where nothing changed.",
            show_default="as great as --anchor",
        ),
    ] = None,
    keep_alpha: Annotated[
        bool | None,
        typer.Option(
            "--keep-alpha/--no-keep-alpha",
            help="Keep the picture's transparency.",
            show_default="keep-alpha",
        ),
    ] = None,
    size: options.Size = None,
    style: Styles = None,
    style_both: StyleBoth = False,
    placement: options.Placed = PLAIN,
    keep_metadata: origin.KeepMetadata = False,
    quality: origin.Quality = QUALITY,
    provenance: origin.Provenance = True,
    c2pa_cert: origin.C2paCert = None,
    c2pa_key: origin.C2paKey = None,
    c2pa_time: origin.C2paTime = None,
    watermark: origin.Watermark = False,
    quiet: options.Quiet = False,
) -> None:
    """Edit a picture by text.

    The source says what the picture shows, the target what it should show. Prints the path of what
    it wrote; an existing file is overwritten.

    \b
    Example:
      icd edit cat.png --source "a cat on a sofa" --target "a dog on a sofa" --blend cat:dog --model MODEL_FOLDER
      icd edit - --source "a cat" --target "a dog" --out - < cat.png > dog.png
      icd edit --demo
    """
    settings = options.given(
        seed=seed,
        guidance_scale=guidance_scale,
        tau=options.share("--tau", tau),
        tau_low=tau_low,
        control=control,
        cross_replace=options.cross_replace(cross_replace or []),
        self_replace=options.share("--self-replace", self_replace),
        amplify=options.by_word("--amplify", amplify or [], options.number) or None,
        blend=options.blend(blend),
        mask=mask,
        mask_alpha=mask_alpha,
        mask_from=mask_from,
        paste_back=paste_back,
        feather=feather,
        anchor=anchor,
        detail=detail,
        keep_alpha=keep_alpha,
        auto=auto,
    )
    if demo and (picture is not None or source is not None or target):
        raise UsageError("--demo brings its own PICTURE, --source and --target")
    asked = Asked(
        path=picture,
        source=source,
        targets=target or [],
        size=options.size(size),
        settings=settings,
        demo=demo,
        quiet=quiet,
    )
    _check_alone(auto or sheet is not None, asked.targets)
    marks = origin.marks(provenance, c2pa_cert, c2pa_key, c2pa_time, watermark, quality)
    out = output(out or beside(picture), 1 if compare else len(asked.targets), sheet)
    asked = asked.read()
    marks |= asked.marks(keep_metadata, "signature" in marks)
    engine = open_styled(model, quiet, placement, yes, style_files(style, style_both))
    asked = asked.of_model(engine)
    if sheet is not None:
        found = asked.search(engine, edits)
        tell_path(save_image(found.contact_sheet(), sheet, **marks), out)
        result = found.result
    else:
        result = asked.edit(engine)
    taken = f"{result.network_calls} network calls, {result.timings['total']:.0f} ms after loading"
    print_note(taken, quiet)
    pictures = [comparison(asked.image, result)] if compare or demo else result.images
    save_all(pictures, out, **marks)


def _check_alone(chosen: bool, targets: list[str]) -> None:
    if chosen and len(targets) > 1:
        raise UsageError("--auto and --sheet are for one --target")
