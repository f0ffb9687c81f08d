"""The options that commands share, and how their texts are read.

A text that cannot be read names its option.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import wraps
from inspect import Parameter, signature
from inspect import Signature as CommandSignature
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from icd_engine.cli.streams import hush
from icd_engine.placement import PLAIN, Placement
from icd_engine.saving import SUFFIXES
from icd_engine.settings import EditSettings, Share

MODELS_OWN = "model's own"
# typer brings its own copy of click or uses the installed one, by version: this is the UsageError
# it raises.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
PICTURE_SUFFIXES = tuple(SUFFIXES)  # of what is written

Model = Annotated[
    str,
    typer.Option(
        metavar="NAME|FOLDER",
        help="The embedded model tiny, a published one (see `icd models`), or a model folder.",
    ),
]
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="The embedded model tiny, a published one (see `icd models`), or a model folder.",
    ),
]
PublishedName = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of a published model: see `icd models`.")
]
Yes = Annotated[
    bool,
    typer.Option("--yes", "-y", help="Download a published model without asking (or ICD_YES=1)."),
]
Device = Annotated[
    str, typer.Option(metavar="NAME", help="Where the model runs: auto, cpu, cuda or cuda:N.")
]
Dtype = Annotated[
    Literal["auto", "float32", "float16", "bfloat16"],
    typer.Option(help="Precision of the networks."),
]
RunnerName = Annotated[
    str,
    typer.Option(
        "--runner",
        metavar="NAME",
        help="How network calls are executed: auto, eager, compiled, graph; of exports onnx, onnx-graph, openvino.",
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        help="fused: two whole networks in memory; switch: one, with the other as low-rank updates of it (less memory)."
    ),
]
Compile = Annotated[
    Literal["cheap", "aten", "full"],
    typer.Option(
        help="How far compiled code for CUDA is tuned in the first edit: cheap (not at all), aten "
        "(PyTorch's own kernels), full (Triton's, too: many minutes)."
    ),
]
Offload = Annotated[
    bool,
    typer.Option(
        "--offload",
        help="Keep text encoders and VAE in host memory between uses (needs less GPU memory).",
    ),
]
VaeTiling = Annotated[
    bool | None,
    typer.Option(
        "--vae-tiling/--no-vae-tiling",
        help="Run the VAE in overlapping tiles (less memory).",
        show_default="only large pictures",
    ),
]
Placed = Annotated[Placement, "made of the options of PLACEMENT by `placed`"]
PLACEMENT = {
    "device": Device,
    "dtype": Dtype,
    "runner": RunnerName,
    "weights": Weights,
    "compile": Compile,
    "offload": Offload,
    "vae_tiling": VaeTiling,
}
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", callback=hush, help="Print written paths and errors only."),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="WxH",
        help="Work at this size and return it.",
        show_default="the picture's aspect, and its size",
    ),
]
GuidanceScale = Annotated[
    float | None,
    typer.Option(
        metavar="W",
        help="How strongly the target is followed; 0 is unguided (the paper's w minus 1).",
        show_default=MODELS_OWN,
    ),
]
Tau = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE|LOW,HIGH",
        help="Guidance is on while the time step is below this share of the 1000 steps (off in the "
        "first, noisiest calls); "
        "LOW,HIGH fades it out between the two.",
        show_default=MODELS_OWN,
    ),
]
TauLow = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Guidance is off below this share as well; 0 turns this off.",
        show_default=MODELS_OWN,
    ),
]


def placed(command: Callable[..., None]) -> Callable[..., None]:
    """Decorates a command that takes a `placement`: on the command line that is an option for each
    of its fields, in its place."""

    @wraps(command)
    def call(**values: Any) -> None:
        chosen = {name: values.pop(name) for name in PLACEMENT}
        command(placement=Placement(**chosen), **values)

    parameters: list[Parameter] = []
    for parameter in signature(command, eval_str=True).parameters.values():
        if parameter.name != "placement":
            parameters.append(parameter)
            continue
        parameters += [
            parameter.replace(name=name, annotation=option, default=getattr(PLAIN, name))
            for name, option in PLACEMENT.items()
        ]
    call.__signature__ = CommandSignature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
    call.__annotations__ = {one.name: one.annotation for one in parameters}
    return call


def check_any_device(placement: Placement) -> None:
    """A usage error for one GPU by its number, where the program shares all of them out."""
    if placement.device not in ("auto", "cpu", "cuda"):
        raise usage_error("auto, cpu or cuda: CUDA_VISIBLE_DEVICES says which GPUs", "--device")


def usage_error(message: str, option: str) -> Exception:
    """What to raise when the text of an option cannot be read; it ends with exit code 2."""
    return typer.BadParameter(message, param_hint=f"'{option}'")


def check_picture_path(out: Path, option: str = "--out") -> Path:
    """A path whose ending names a format, no folder: known before any work is done."""
    if out.suffix.lower() not in PICTURE_SUFFIXES:
        raise usage_error(f"{str(out)!r} must end in {', '.join(PICTURE_SUFFIXES)}", option)
    if os.path.isdir(out):
        raise usage_error(f"{str(out)!r} is a folder", option)
    return out


def number(option: str, text: str) -> float:
    """One number."""
    try:
        return float(text)
    except ValueError:
        raise usage_error(f"{text!r} is not a number", option) from None


def share(option: str, text: str | None) -> Share | None:
    """ "0.7" -> 0.7, "0.1,0.6" -> (0.1, 0.6)."""
    if text is None:
        return None
    parts = [number(option, part) for part in text.split(",")]
    if len(parts) > 2:
        raise usage_error(f"{text!r} must be one number or LOW,HIGH", option)
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


def by_word(option: str, texts: Sequence[str], read: Callable[[str, str], Any]) -> dict[str, Any]:
    """["cat=2", ...] -> {"cat": read(option, "2"), ...}."""
    values: dict[str, Any] = {}
    for text in texts:
        word, equals, value = text.rpartition("=")
        if not equals or not word.strip():
            raise usage_error(f"{text!r} must be WORD=VALUE", option)
        if word in values:
            raise usage_error(f"{word!r} is given twice", option)
        values[word] = read(option, value)
    return values


def cross_replace(texts: Sequence[str]) -> Share | dict[str, Share] | None:
    """One share or window for all words, or WORD=share entries, of which WORD may be "default"."""
    if len(texts) == 1 and "=" not in texts[0]:
        return share("--cross-replace", texts[0])
    if any("=" not in text for text in texts):
        raise usage_error(
            "several values must all be WORD=VALUE (default=VALUE for other words)",
            "--cross-replace",
        )
    return by_word("--cross-replace", texts, share) or None


def blend(text: str | None) -> tuple[list[str], list[str]] | None:
    """ "cat" -> the word in both prompts; "cat,bow:dog" -> source words and target words."""
    if text is None:
        return None
    sides = [[word.strip() for word in side.split(",")] for side in text.split(":")]
    if len(sides) > 2 or not all(word for side in sides for word in side):
        raise usage_error(
            f"{text!r} must be WORD[,WORD...] or SOURCE[,...]:TARGET[,...]", "--blend"
        )
    return sides[0], sides[-1]


def size(text: str | None) -> tuple[int, int] | None:
    """ "128x96" -> (128, 96)."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip().lower())
    if match is None:
        raise usage_error(f"{text!r} must be WIDTHxHEIGHT, for example 128x128", "--size")
    return int(match[1]), int(match[2])


def given(**settings: Any) -> dict[str, Any]:
    """The settings that were given, checked. Raises SettingsError naming the field."""
    values = {name: value for name, value in settings.items() if value is not None}
    EditSettings.from_mapping(values)
    return values
