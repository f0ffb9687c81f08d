"""Arguments of the tools, as their schemas describe them to agents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from icd_engine.errors import SettingsError
from icd_engine.settings import (
    MAX_FEATHER,
    MAX_GUIDANCE,
    Control,
    EditSettings,
    MaskAlpha,
    MaskFrom,
)

PROMPT_CHARACTERS = 1000


class Content(BaseModel):
    """Image content of the protocol."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["image"]
    data: str = Field(description="The file in base64.")
    mimeType: str = ""  # the file itself tells what it is


Picture = Annotated[
    str | Content,
    Field(
        description="A file of the granted folder by its name, a data: URL with base64, or image content."
    ),
]
Prompt = Annotated[
    str,
    Field(description="What the picture should show.", min_length=1, max_length=PROMPT_CHARACTERS),
]
SourcePrompt = Annotated[
    str | None,
    Field(
        description="What it shows now, in the same words but for the change. Edits without it keep less.",
        min_length=1,
        max_length=PROMPT_CHARACTERS,
    ),
]
Output = Annotated[
    str | None,
    Field(
        description="Name of a new file of the granted folder to write, in place of sending the picture.",
        min_length=1,
        max_length=1000,
    ),
]
Share = float | tuple[float, float]


def _about(text: str, **limits: Any) -> Any:
    return Field(default=None, description=text, **limits)


class Settings(BaseModel):
    """Settings of an edit; the model's own are good ones to begin with."""

    # Unknown ones are let through to EditSettings, which says what was probably meant
    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": False})

    guidance_scale: float | None = _about("Strength of the prompt.", ge=0, le=MAX_GUIDANCE)
    tau: Share | None = _about("Guidance is on while the time step is below this share of 1000.")
    tau_low: float | None = _about("Guidance is off below this share.", ge=0, le=1)
    control: Control | None = _about("How attention follows the source.")
    cross_replace: Share | dict[str, Share] | None = _about(
        "Share of steps whose cross-attention is the source's, or {word: share}. More keeps more."
    )
    self_replace: Share | None = _about(
        "The same of self-attention. More keeps more of the shapes."
    )
    amplify: dict[str, float] | None = _about("{word of the prompt: factor of its attention}.")
    blend: str | list[str] | tuple[list[str], list[str]] | None = _about(
        "Change only where these words look: words of both prompts, or [[source words], [prompt words]]."
    )
    mask_alpha: MaskAlpha | None = _about("Of a mask with transparency, which part may change.")
    mask_from: MaskFrom | None = _about("A mask made of where the words of blend are.")
    paste_back: bool | None = _about("Outside of a mask, the picture's own pixels.")
    feather: float | None = _about("Pixels over which an edit fades in.", ge=0, le=MAX_FEATHER)
    seed: int | None = _about("Of the noise that is added before encoding.", ge=0)
    anchor: float | None = _about("How far the edit is held to the picture.", ge=0, le=1)
    detail: float | None = _about("How much fine detail comes back.", ge=0, le=1)
    keep_alpha: bool | None = _about("Whether transparency comes back.")
    auto: bool | None = _about("Choose attention control and blend words for this edit.")


def as_settings(given: Settings | None) -> dict[str, Any]:
    """Those settings that were given, checked. SettingsError."""
    values = given.model_dump(exclude_none=True) if given is not None else {}
    if "mask" in values:  # as a setting it would be the name of any file
        raise SettingsError("mask is an argument of its own, beside the settings")
    EditSettings.from_mapping(values)
    return values


def as_size(text: str | None) -> tuple[int, int] | None:
    """ "128x96" -> (128, 96)."""
    if text is None:
        return None
    numbers: Sequence[str] = text.split("x")
    return int(numbers[0]), int(numbers[1])
