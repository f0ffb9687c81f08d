"""The fields of a multipart request, and the settings they make."""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import Depends, File, Form, Request, UploadFile

from icd_engine.errors import IcdError
from icd_engine.serving.limits import (
    INVALID,
    MOST_PICTURES,
    MOST_SEED,
    PROMPT_CHARACTERS,
    SETTING_CHARACTERS,
    ApiError,
)
from icd_engine.settings import (
    MAX_FEATHER,
    MAX_GUIDANCE,
    Control,
    EditSettings,
    MaskAlpha,
    MaskFrom,
)

KINDS = ("png", "jpeg", "webp", "avif", "heic", "tiff", "gif", "bmp")
ENCODING = {
    name: {"contentType": ", ".join(f"image/{kind}" for kind in KINDS)}
    for name in ("image", "mask")
}
# Parameters of routes that are more or other than one field
NO_FIELDS = {"settings", "inversion_id", "asked", "request"}
JSON_SETTINGS = ("tau", "cross_replace", "self_replace", "amplify", "blend")


def _text(about: str, **limits: Any) -> Any:
    return Form(description=about, **limits)


def _json(about: str) -> Any:
    return Form(description=f"{about} JSON.", min_length=1, max_length=SETTING_CHARACTERS)


Image = Annotated[
    UploadFile, File(description="PNG, JPEG, WEBP, AVIF, TIFF, GIF or BMP; image[] is the same.")
]
Prompt = Annotated[
    str, _text("What the picture should show.", min_length=1, max_length=PROMPT_CHARACTERS)
]
SourcePrompt = Annotated[str, _text("What it shows.", min_length=1, max_length=PROMPT_CHARACTERS)]
MaybeSourcePrompt = Annotated[
    str | None,
    _text(
        "What it shows. Default: the operator's, or none; edits without one keep less of the picture.",
        min_length=1,
        max_length=PROMPT_CHARACTERS,
    ),
]
Count = Annotated[
    int, _text("Pictures to make, with seeds that follow each other.", ge=1, le=MOST_PICTURES)
]
Seed = Annotated[
    int | None,
    _text(
        "Seed of the noise that is added before encoding. Default: the model's.", ge=0, le=MOST_SEED
    ),
]
Size = Annotated[
    str,
    _text(
        "WIDTHxHEIGHT to work at and return; auto: the picture's own.",
        pattern=r"^(auto|\d{1,4}x\d{1,4})$",
    ),
]
MaskAlphaField = Annotated[
    MaskAlpha | None,
    _text(
        "Of a mask with transparency, what may change: its hole (OpenAI's way) or what is painted."
    ),
]
FromWords = Annotated[
    MaskFrom | None,
    _text("Change only where the words of blend are, or those that differ between the prompts."),
]
Feather = Annotated[
    float | None,
    _text("Pixels over which the edit fades in, inside of the mask.", ge=0, le=MAX_FEATHER),
]
Anchor = Annotated[
    float | None,
    _text("How far the edit is held to the picture's encoding; 0: not at all.", ge=0, le=1),
]
Detail = Annotated[
    float | None,
    _text("How much of what the VAE lost comes back where nothing changed.", ge=0, le=1),
]
PasteBack = Annotated[
    bool | None,
    _text("Outside blend and mask, the original's own pixels. Default: where there is a mask."),
]
KeepAlpha = Annotated[bool | None, _text("Whether transparency comes back. Default: it does.")]
Format = Annotated[Literal["b64_json"], _text("How pictures are sent.")]
Unused = Annotated[
    str | None,
    _text(
        "Taken from OpenAI's clients, without effect.", min_length=1, max_length=SETTING_CHARACTERS
    ),
]


async def settings(
    guidance_scale: Annotated[
        float | None, _text("Strength of the prompt.", ge=0, le=MAX_GUIDANCE)
    ] = None,
    tau: Annotated[
        str | None,
        _json(
            "Guidance is on while the time step is below this share of the 1000 steps; [low, high] fades it out."
        ),
    ] = None,
    tau_low: Annotated[
        float | None, _text("Guidance is off below this share as well.", ge=0, le=1)
    ] = None,
    control: Annotated[Control | None, _text("How attention follows the source.")] = None,
    cross_replace: Annotated[
        str | None, _json("A share, a window [from, to], or {word: either}.")
    ] = None,
    self_replace: Annotated[str | None, _json("A share or a window.")] = None,
    amplify: Annotated[str | None, _json("{word: factor}.")] = None,
    blend: Annotated[
        str | None, _json("[source words, target words]: change only where they look.")
    ] = None,
    mask: Annotated[
        UploadFile | None,
        File(description="White may change; or as OpenAI has it, what is transparent."),
    ] = None,
    mask_alpha: MaskAlphaField = None,
    mask_from: FromWords = None,
    paste_back: PasteBack = None,
    feather: Feather = None,
    anchor: Anchor = None,
    detail: Detail = None,
    keep_alpha: KeepAlpha = None,
    auto: Annotated[
        bool | None, _text("Attention control and blend words as suits this edit.")
    ] = None,
) -> dict[str, Any]:
    """Those fields of EditSettings that were given, checked. Raises ApiError."""
    values: dict[str, Any] = {
        "guidance_scale": guidance_scale,
        "tau_low": tau_low,
        "control": control,
    }
    values |= {"mask_alpha": mask_alpha, "mask_from": mask_from}
    values |= {"paste_back": paste_back, "feather": feather}
    values |= {"anchor": anchor, "detail": detail, "keep_alpha": keep_alpha, "auto": auto}
    texts = dict(
        zip(JSON_SETTINGS, (tau, cross_replace, self_replace, amplify, blend), strict=True)
    )
    values |= {name: _read(name, text) for name, text in texts.items() if text is not None}
    if mask is not None:
        values["mask"] = await mask.read()
    return checked(values)


Settings = Annotated[dict[str, Any], Depends(settings)]


def checked(values: dict[str, Any]) -> dict[str, Any]:
    """The settings that are not None. Raises ApiError where EditSettings does not take one."""
    given = {name: value for name, value in values.items() if value is not None}
    try:
        EditSettings.from_mapping(given)
    except IcdError as error:
        raise ApiError.of_input(error) from None
    return given


def size(text: str) -> tuple[int, int] | None:
    """ "128x96" -> (128, 96); "auto" -> None."""
    return None if text == "auto" else (int(text.partition("x")[0]), int(text.partition("x")[2]))


def only(*functions: Callable[..., Any]) -> Any:
    """A dependency that refuses fields which are no parameters of `functions`, are given twice, or
    are empty.

    A setting that is misspelt or lost its value would otherwise be an edit with another setting,
    and no error.
    """
    known = {
        name for function in functions for name in inspect.signature(function).parameters
    } - NO_FIELDS

    async def check(request: Request) -> None:
        fields = (await request.form()).multi_items()
        counts = Counter(name for name, _ in fields)
        for name, value in fields:
            if name not in known:
                raise ApiError(INVALID, f"unknown field {name[:40]!r}", name[:40])
            if counts[name] > 1 and name == "image":
                text = f"image: {counts[name]} pictures are given, and an edit is of one"
                raise ApiError(INVALID, text, name)
            if counts[name] > 1:
                raise ApiError(INVALID, f"{name} is given {counts[name]} times", name)
            if value == "":
                raise ApiError(INVALID, f"{name} is empty", name)

    return Depends(check)


def _read(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ApiError(INVALID, f"{name} is not JSON", name) from None
