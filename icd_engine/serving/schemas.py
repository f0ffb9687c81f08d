"""What the service answers, as its OpenAPI document has it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from icd_engine.serving import forms


class Refusal(BaseModel):
    """OpenAI's shape of an error."""

    class About(BaseModel):
        message: str
        type: Literal["invalid_request_error", "server_error"]
        param: str | None
        code: str
        id: str

    error: About


class Picture(BaseModel):
    """A picture file in base64, and the settings that repeat it."""

    b64_json: str
    settings: dict[str, Any]


class Images(BaseModel):
    """OpenAI's shape of pictures. source_prompt: of an edit that came without one, what it was
    inverted with. warnings: what its client should know, such as a prompt that was cut."""

    created: int
    data: list[Picture]
    size: str
    quality: Literal["high"]
    background: Literal["opaque", "transparent"]
    output_format: Literal["png", "jpeg", "webp"]
    source_prompt: str | None = None
    warnings: list[str] = []


class Model(BaseModel):
    """OpenAI's shape of a model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "icd"


class Models(BaseModel):
    """OpenAI's shape of a list of models."""

    object: Literal["list"] = "list"
    data: list[Model]


class InversionInfo(BaseModel):
    """A kept picture."""

    id: str
    object: Literal["inversion"] = "inversion"
    created: int
    expires_at: int
    source_prompt: str
    seed: int
    size: str


class State(BaseModel):
    """How the service is."""

    status: Literal["ok", "ready"]


REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Refusal, "description": "The request is wrong; nothing was done."},
    500: {"model": Refusal, "description": "The service failed on it."},
    503: {
        "model": Refusal,
        "description": "No room, or not ready: try again.",
        "headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}},
    },
    504: {"model": Refusal, "description": "It took too long."},
}
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}
FILES = {"requestBody": {"content": {"multipart/form-data": {"encoding": forms.ENCODING}}}}
