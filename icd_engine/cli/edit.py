"""`icd edit`: a picture, or a kept inversion, towards one target prompt or several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from PIL import Image

from icd_engine.bundles.demo import read_demo
from icd_engine.cli import options
from icd_engine.cli.options import MODELS_OWN, UsageError
from icd_engine.cli.terminal import hop_bar, open_engine, print_note, print_path
from icd_engine.errors import PromptError, SettingsError
from icd_engine.images import load_image, load_mask, save_image
from icd_engine.placement import PLAIN
from icd_engine.search import SEARCHED
from icd_engine.settings import Control

if TYPE_CHECKING:
    from icd_engine.engine import Engine
    from icd_engine.results import EditResult, Inversion
    from icd_engine.search import Search

KEPT = ".safetensors"


@options.placed
def edit(
    picture: Annotated[
        str | None,
        typer.Argument(
            help="PNG, JPEG or WEBP file, or a .safetensors file that `icd invert` made.",
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
            help="File to write; overwritten.",
            show_default="PICTURE's name + _edited.png",
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Write one picture: source, reconstruction, edits, side by side."
        ),
    ] = False,
    auto: Annotated[
        bool,
        typer.Option(
            "--auto", help="Try settings and keep the best; those that are given stay. One target."
        ),
    ] = False,
    edits: Annotated[
        int, typer.Option(metavar="N", min=1, help="Of --auto: edits to try at most.")
    ] = 34,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Of --auto: small pictures of what was tried, best first."
        ),
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Edit the model's own example; implies --compare.")
    ] = False,
    model: options.Model = "tiny",
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Of the encode noise.", show_default=MODELS_OWN)
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
            help="Share or window of the decode hops that keep the source's cross-attention, for all words or by "
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
            metavar="FILE", help="Picture whose white parts may change.", show_default="all may"
        ),
    ] = None,
    paste_back: Annotated[
        bool | None,
        typer.Option(
            "--paste-back/--no-paste-back",
            help="Outside --blend and --mask, the original's own pixels.",
            show_default=MODELS_OWN,
        ),
    ] = None,
    size: options.Size = None,
    placement: options.Placed = PLAIN,
    provenance: options.Provenance = True,
    c2pa_cert: options.C2paCert = None,
    c2pa_key: options.C2paKey = None,
    quiet: options.Quiet = False,
) -> None:
    """Edit a picture by text.

    The source says what the picture shows, the target what it should show. Prints the path of what
    it wrote; an existing file is overwritten.

    \b
    Example:
      icd edit cat.png --source "a cat on a sofa" --target "a dog on a sofa" --blend cat:dog --model MODEL_FOLDER
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
        paste_back=paste_back,
    )
    wanted_size = options.size(size)
    _check_arguments(picture, source, target, demo)
    if auto and target is not None and len(target) > 1:
        raise UsageError("--auto is for one --target")
    if sheet is not None:
        options.check_picture_path(sheet, "--sheet")
    marks = options.marks(provenance, c2pa_cert, c2pa_key)
    out = options.check_picture_path(out or Path(f"{Path(picture or 'demo').stem}_edited.png"))
    if mask is not None:
        load_mask(mask, (8, 8))  # an unreadable mask shows before the model is loaded
    image: Image.Image | None = (
        None if picture is None or _is_kept(picture) else load_image(picture)
    )
    if image is not None and "signature" in marks:
        marks["parent"] = Path(str(picture)).read_bytes()
    engine = open_engine(model, quiet, placement)
    if demo:
        example = read_demo(engine.bundle.path)
        image = example.picture
        source = example.source
        target = [example.target]
        settings = {**example.settings, **settings}
        print_note(f"source: {source}\ntarget: {example.target}", quiet)
    if auto:
        kept = str(picture) if image is None else None
        found = _search(
            engine, image, kept, source, target or [], wanted_size, settings, edits, quiet
        )
        if sheet is not None:
            print_path(save_image(found.contact_sheet(), sheet, **marks))
        result = found.result
    elif image is None:
        result = _edit_kept(
            engine, str(picture), source, target or [], wanted_size, settings, quiet
        )
    else:
        result = _edit_picture(
            engine, image, source or "", target or [], wanted_size, settings, quiet
        )
    pictures = [side_by_side(_panels(image, result))] if compare or demo else result.images
    print_note(
        f"{result.network_calls} network calls, {result.timings['total']:.0f} ms after loading",
        quiet,
    )
    save_all(pictures, out, **marks)


def save_all(pictures: Sequence[Image.Image], out: Path, **marks: Any) -> None:
    """Writes and prints `out`, or with several pictures out_1, out_2 and so on; marks: see
    `save_image`."""
    for i, one in enumerate(pictures, start=1):
        path = out if len(pictures) == 1 else out.with_stem(f"{out.stem}_{i}")
        print_path(save_image(one, path, **marks))


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """RGB pictures of one height in a row."""
    row = Image.new("RGB", (sum(one.width for one in pictures), pictures[0].height))
    left = 0
    for one in pictures:
        row.paste(one, (left, 0))
        left += one.width
    return row


def _is_kept(picture: str) -> bool:
    return Path(picture).suffix.lower() == KEPT


def _check_arguments(
    picture: str | None, source: str | None, target: list[str] | None, demo: bool
) -> None:
    if demo:
        if picture is not None or source is not None or target:
            raise UsageError("--demo brings its own PICTURE, --source and --target")
        return
    if picture is None:
        raise UsageError("Missing argument 'PICTURE' (or --demo)")
    if source is None and not _is_kept(picture):
        raise UsageError("Missing option '--source': say what the picture shows")
    if not target:
        raise UsageError("Missing option '--target': say what the picture should show")


def _edit_picture(
    engine: Engine,
    image: Image.Image,
    source: str,
    targets: list[str],
    size: tuple[int, int] | None,
    settings: dict[str, Any],
    quiet: bool,
) -> EditResult:
    hops = len(engine.bundle.encode_times) + len(engine.bundle.decode_times)
    with hop_bar(hops, quiet) as progress:
        return engine.edit(image, source, targets, size=size, progress=progress, **settings)


def _edit_kept(
    engine: Engine,
    path: str,
    source: str | None,
    targets: list[str],
    size: tuple[int, int] | None,
    settings: dict[str, Any],
    quiet: bool,
) -> EditResult:
    inversion = engine.load_inversion(path)
    _check_kept(path, inversion, source, size, settings.get("seed"))
    with hop_bar(len(engine.bundle.decode_times), quiet) as progress:
        return engine.edit_inversion(inversion, targets, progress=progress, **settings)


def _search(
    engine: Engine,
    image: Image.Image | None,
    kept: str | None,
    source: str | None,
    targets: list[str],
    size: tuple[int, int] | None,
    settings: dict[str, Any],
    edits: int,
    quiet: bool,
) -> Search:
    with hop_bar(edits, quiet) as progress:
        if kept is not None:
            inversion = engine.load_inversion(kept)
            _check_kept(kept, inversion, source, size, settings.get("seed"))
        else:
            inversion = engine.invert(image, source or "", size=size, seed=settings.get("seed"))
        found = inversion.search(targets[0], edits=edits, progress=progress, **settings)
    values = {name: getattr(found.result.settings, name) for name in SEARCHED}
    text = ", ".join(
        f"{name} {v:.2f}" if isinstance(v, float) else f"{name} {v}" for name, v in values.items()
    )
    print_note(f"best of {len(found.candidates)} settings: {text}", quiet)
    return found


def _check_kept(
    path: str,
    inversion: Inversion,
    source: str | None,
    size: tuple[int, int] | None,
    seed: int | None,
) -> None:
    """What was fixed by inverting cannot be chosen again. Raises PromptError, SettingsError."""
    if source not in (None, inversion.source):
        raise PromptError(
            f"{path} was inverted with the source {inversion.source!r}, not {source!r}"
        )
    if seed not in (None, inversion.seed):
        raise SettingsError(f"{path} was inverted with seed {inversion.seed}, not {seed}")
    if size not in (None, inversion.size):
        raise SettingsError(f"{path} was inverted at size {'x'.join(map(str, inversion.size))}")


def _panels(image: Image.Image | None, result: EditResult) -> list[Image.Image]:
    """Source (unless it was inverted earlier: then the picture is not at hand), reconstruction,
    edits."""
    first = (
        []
        if image is None
        else [image.resize(result.inversion.picture_size, Image.Resampling.BICUBIC)]
    )
    return [*first, result.reconstruction, *result.images]
