"""Bodies of edits as stock clients write them: forms whose picture is `image[]`, and JSON with data URLs.
All become one form, so that one set of fields reads and checks them."""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, StrictBool, StrictFloat, StrictInt, StrictStr
from pydantic import ValidationError as PydanticError
from starlette.datastructures import FormData, Headers, UploadFile

from icd_engine.errors import shown
from icd_engine.serving.forms import JSON_SETTINGS
from icd_engine.serving.limits import INVALID, ApiError

FILES = ("image", "mask")
_DATA_URL = re.compile(r"data:(?P<type>image/[\w.+-]+)?(?:;[\w-]+=[^;,]*)*;base64,", re.ASCII)

Number = StrictInt | StrictFloat
Text = StrictStr | None
Reference = StrictStr | dict[Literal["image_url", "file_id"], StrictStr]


class JsonEdit(BaseModel):
    """An edit as JSON. Pictures are data URLs, or {"image_url": data URL}, as at OpenAI; `images` has one.
    The other fields are those of the form; settings that are JSON there are plain values here."""

    model_config = ConfigDict(extra="forbid")

    prompt: StrictStr
    image: Reference | list[Reference] | None = None
    images: list[Reference] | None = None
    mask: Reference | None = None
    source_prompt: Text = None
    model: Text = None
    user: Text = None
    safety_identifier: Text = None
    n: StrictInt | None = None
    seed: StrictInt | None = None
    size: Text = None
    response_format: Text = None
    output_format: Text = None
    output_compression: StrictInt | None = None
    background: Text = None
    quality: Text = None
    input_fidelity: Text = None
    moderation: Text = None
    stream: StrictBool | None = None
    partial_images: StrictInt | None = None
    num_inference_steps: StrictInt | None = None
    guidance_scale: Number | None = None
    tau: Number | list[Number] | None = None
    tau_low: Number | None = None
    control: Text = None
    cross_replace: Number | list[Number] | dict[str, Any] | None = None
    self_replace: Number | list[Number] | None = None
    amplify: dict[str, Number] | None = None
    blend: StrictStr | list[Any] | None = None
    mask_alpha: Text = None
    mask_from: Text = None
    paste_back: StrictBool | None = None
    feather: Number | None = None
    anchor: Number | None = None
    detail: Number | None = None
    keep_alpha: StrictBool | None = None
    auto: StrictBool | None = None


class EditRoute(APIRoute):
    """A route whose requests may be written in any of these ways."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handle = super().get_route_handler()

        async def handle_any(request: Request) -> Response:
            return await handle(EditBody(request.scope, request.receive))

        return handle_any


class EditBody(Request):
    """A request whose form is that of an edit, whatever it came as."""

    async def form(self, **limits: Any) -> FormData:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Fields as the routes name them. Raises ApiError."""
        if self._form is None:
            kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind == "application/json":
                self._form = FormData(list(_json_fields(await self.body())))
            else:
                form = await super().form(**limits)
                self._form = FormData(
                    [
                        ("image" if name == "image[]" else name, own)
                        for name, own in form.multi_items()
                    ]
                )
        return self._form


def _json_fields(body: bytes) -> Iterator[tuple[str, str | UploadFile]]:
    """A JSON body as the fields of a form. Raises ApiError."""
    try:
        given = JsonEdit.model_validate(json.loads(body))
    except PydanticError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "the body"
        text = "unknown field" if first["type"] == "extra_forbidden" else first["msg"]
        raise ApiError(
            INVALID, f"{name[:40]}: {text}", name[:40] if first["loc"] else None
        ) from None
    except (ValueError, RecursionError):
        raise ApiError(INVALID, "the body is not JSON") from None
    values = given.model_dump(exclude_none=True)
    yield from (("image", _file("image", one)) for one in _pictures(values))
    for name, value in values.items():
        if name == "mask":
            yield name, _file(name, value)
        elif name in JSON_SETTINGS or not isinstance(value, str):
            yield name, json.dumps(value)
        else:
            yield name, value


def _pictures(values: dict[str, Any]) -> list[Any]:
    """What `image` and `images` hold, taken out of the values."""
    found: list[Any] = []
    for name in ("image", "images"):
        one = values.pop(name, [])
        found += one if isinstance(one, list) else [one]
    return found


def _file(name: str, reference: str | Mapping[str, str]) -> UploadFile:
    """The picture of a data URL. ApiError for any other: nothing is fetched."""
    if not isinstance(reference, str):
        if list(reference) != ["image_url"]:
            raise ApiError(INVALID, f"{name}: image_url is needed, with a data URL", name)
        reference = reference["image_url"]
    found = _DATA_URL.match(reference)
    if found is None:
        about = shown(reference[:40])
        raise ApiError(
            INVALID, f"{name}: a data URL is needed, not {about}: no URL is fetched", name
        )
    try:
        data = base64.b64decode(reference[found.end() :], validate=True)
    except binascii.Error:
        raise ApiError(INVALID, f"{name}: the data URL is not base64", name) from None
    headers = Headers({"content-type": found["type"] or "application/octet-stream"})
    return UploadFile(io.BytesIO(data), size=len(data), filename=name, headers=headers)
