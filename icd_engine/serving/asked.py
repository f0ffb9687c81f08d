"""Fields of OpenAI's image edits that say how an answer comes. Those that ask for what is done anyway
are taken; what is not done is refused by name and value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Depends, Form

from icd_engine.saving import QUALITY
from icd_engine.serving import forms
from icd_engine.serving.jobs import Written
from icd_engine.serving.limits import INVALID, ApiError

MOST_PREVIEWS = 3  # as at OpenAI; a decode pass of four hops has three before its last
LOSSY = ("jpeg", "webp")

FileFormat = Literal["png", "jpeg", "webp"]


@dataclass(frozen=True)
class Asked:
    """written: how pictures are sent. previews: how many, in a stream; None without one."""

    written: Written
    previews: int | None
    opaque: bool


def _field(about: str, **limits: Any) -> Any:
    return Form(description=about, **limits)


async def asked(
    output_format: Annotated[FileFormat, _field("Format of the picture.")] = "png",
    output_compression: Annotated[
        int | None, _field("Quality of JPEG and WEBP; PNG has 100.", ge=0, le=100)
    ] = None,
    background: Annotated[
        Literal["auto", "opaque"], _field("opaque: transparency does not come back.")
    ] = "auto",
    stream: Annotated[bool, _field("Answer as server-sent events.")] = False,
    partial_images: Annotated[
        int | None,
        _field(
            "Of a stream: previews of the last so many decode steps before the picture. Default: all.",
            ge=0,
            le=MOST_PREVIEWS,
        ),
    ] = None,
    num_inference_steps: Annotated[
        int | None, _field("Decode steps; a model has its own number.", ge=1, le=1000)
    ] = None,
    quality: Annotated[
        Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"],
        _field("There is one, the best."),
    ] = "auto",
    input_fidelity: Annotated[
        Literal["low", "high"], _field("It is always high: what is not edited stays as it is.")
    ] = "high",
    moderation: Annotated[
        Literal["auto", "low"], _field("There is none; taken from OpenAI's clients.")
    ] = "auto",
    response_format: forms.Format = "b64_json",
) -> tuple[Asked, int | None]:
    """How to answer, and the steps that were asked for. Raises ApiError."""
    quality_asked = output_compression
    if output_format not in LOSSY and quality_asked not in (None, 100):
        raise ApiError(
            INVALID,
            f"output_compression: {output_format} has no compression of {quality_asked}",
            "output_compression",
        )
    if partial_images and not stream:
        raise ApiError(
            INVALID, f"partial_images: {partial_images} without stream", "partial_images"
        )
    written = Written(output_format, QUALITY if quality_asked is None else max(1, quality_asked))
    shown = MOST_PREVIEWS if partial_images is None else partial_images
    return Asked(written, shown if stream else None, background == "opaque"), num_inference_steps


AskedFields = Annotated[tuple[Asked, int | None], Depends(asked)]
