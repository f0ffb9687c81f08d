"""The HTTP interface: OpenAI's image edits, kept inversions, health and metrics.

It knows no Ray.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from cachetools import TTLCache
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException

import icd_engine
from icd_engine.serving import forms
from icd_engine.serving.gate import Gate, Metrics, Room, request_id, response
from icd_engine.serving.limits import (
    INVALID,
    NOT_READY,
    UNKNOWN_INVERSION,
    ApiError,
    Limits,
    Problem,
)
from icd_engine.serving.replica import EditJob, EditKeptJob, InvertJob, Job, Kept, Pictures, Reply

Run = Callable[[Job], Awaitable[Reply]]  # raises ApiError
Ready = Callable[[], Awaitable[bool]]


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
    """A PNG file in base64, and the settings that repeat it."""

    b64_json: str
    settings: dict[str, Any]


class Images(BaseModel):
    """OpenAI's shape of pictures."""

    created: int
    data: list[Picture]


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


FILES = {"requestBody": {"content": {"multipart/form-data": {"encoding": forms.ENCODING}}}}


@dataclass(frozen=True)
class Entry:
    """An inversion and the file it was made of."""

    kept: Kept
    image: bytes


class Routes:
    """What each route does."""

    def __init__(self, run: Run, ready: Ready, limits: Limits, metrics: Metrics):
        self._run = run
        self._ready = ready
        self._limits = limits
        self._metrics = metrics
        self._inversions: TTLCache[str, Entry] = TTLCache(
            limits.inversions, limits.inversion_seconds
        )

    async def edit(
        self,
        image: forms.Image,
        prompt: forms.Prompt,
        source_prompt: forms.SourcePrompt,
        settings: forms.Settings,
        n: forms.Count = 1,
        seed: forms.Seed = None,
        size: forms.Size = "auto",
        response_format: forms.Format = "b64_json",
        model: forms.Unused = None,
        user: forms.Unused = None,
        quality: forms.Unused = None,
    ) -> Response:
        """Edits a picture by text."""
        chosen = settings if seed is None else {**settings, "seed": seed}
        job = EditJob(
            image=await image.read(),
            source=source_prompt,
            target=prompt,
            settings=chosen,
            size=forms.size(size),
            count=n,
        )
        return await self._pictures(job)

    async def invert(
        self,
        image: forms.Image,
        source_prompt: forms.SourcePrompt,
        seed: forms.Seed = None,
        size: forms.Size = "auto",
    ) -> InversionInfo:
        """Keeps a picture encoded: its edits then cost the half."""
        data = await image.read()
        settings = {} if seed is None else {"seed": seed}
        job = InvertJob(image=data, source=source_prompt, settings=settings, size=forms.size(size))
        kept = (await self._done(job)).value
        key = f"inv_{secrets.token_urlsafe(16)}"
        now = int(time.time())
        assert isinstance(kept, Kept)
        self._inversions[key] = Entry(kept, data)
        self._metrics.inversions.set(len(self._inversions))
        return InversionInfo(
            id=key,
            created=now,
            expires_at=now + int(self._limits.inversion_seconds),
            source_prompt=kept.source,
            seed=kept.seed,
            size="{}x{}".format(*kept.picture_size),
        )

    async def edit_kept(
        self,
        inversion_id: str,
        prompt: forms.Prompt,
        settings: forms.Settings,
        response_format: forms.Format = "b64_json",
        user: forms.Unused = None,
    ) -> Response:
        """Edits a kept picture."""
        entry = self._inversions.get(inversion_id)
        self._metrics.inversions.set(len(self._inversions))
        if entry is None:
            raise ApiError(UNKNOWN_INVERSION, param="inversion_id")
        job = EditKeptJob(
            key=inversion_id, kept=entry.kept, image=entry.image, target=prompt, settings=settings
        )
        return await self._pictures(job)

    async def health(self) -> State:
        """That the service runs."""
        return State(status="ok")

    async def ready(self) -> State:
        """Whether the model is loaded and warm."""
        if not await self._ready():
            raise ApiError(NOT_READY)
        return State(status="ready")

    async def metrics(self) -> Response:
        """Counters and times, in Prometheus' text format."""
        return Response(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def _pictures(self, job: Job) -> Response:
        made = (await self._done(job)).value
        assert isinstance(made, Pictures)
        self._metrics.pictures.inc(len(made.files))
        pairs = zip(made.files, made.settings, strict=True)
        data = [{"b64_json": file, "settings": chosen} for file, chosen in pairs]
        # Not through the model: files are large
        return JSONResponse({"created": int(time.time()), "data": data})

    async def _done(self, job: Job) -> Reply:
        reply = await self._run(job)
        self._metrics.batch.observe(reply.batch)
        self._metrics.worker.set(reply.memory)
        return reply


def application(
    run: Run, ready: Ready, limits: Limits, token: str | None, room: Room, metrics: Metrics
) -> FastAPI:
    """The routes behind the gate."""
    routes = Routes(run, ready, limits, metrics)
    app = FastAPI(
        title="icd",
        summary=icd_engine.__doc__,
        version=icd_engine.__version__,
        docs_url=None,
        redoc_url=None,
    )
    app.router.redirect_slashes = False
    app.add_middleware(Gate, limits=limits, token=token, room=room, metrics=metrics)
    for kind in (ApiError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _refused)
    # For the document: the gate checks it
    bearer = [] if token is None else [Depends(HTTPBearer(auto_error=False))]
    for path, route, model in (
        ("/v1/images/edits", routes.edit, Images),
        ("/v1/inversions", routes.invert, InversionInfo),
        ("/v1/inversions/{inversion_id}/edits", routes.edit_kept, Images),
    ):
        fields = forms.only(route, forms.settings) if model is Images else forms.only(route)
        options = {
            "response_model": model,
            "responses": REFUSALS,
            "dependencies": [*bearer, fields],
        }
        app.add_api_route(path, route, methods=["POST"], openapi_extra=FILES, **options)
    app.add_api_route("/health", routes.health)
    app.add_api_route("/ready", routes.ready, responses={503: REFUSALS[503]})
    text: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
    }
    app.add_api_route("/metrics", routes.metrics, response_class=Response, responses=text)
    # Made once, and kept by the app
    for name, schema in app.openapi()["components"]["schemas"].items():
        if name.startswith("Body_"):
            schema["additionalProperties"] = False  # as `forms.only` has it
    return app


async def _refused(request: Request, error: Exception) -> Response:
    """Every error in one shape."""
    answer = response(_as_refusal(error), request_id(request.scope))
    if isinstance(error, HTTPException):
        answer.headers.update(error.headers or {})  # which methods a path has
    return answer


def _as_refusal(error: Exception) -> ApiError:
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        field = str(first["loc"][-1])
        # The texts of pydantic are fixed; those of other people's checks may say anything.
        return ApiError(
            INVALID,
            f"{field}: {'a file is expected' if first['type'] == 'value_error' else first['msg']}",
            field,
        )
    if isinstance(error, HTTPException):
        if isinstance(error.__cause__, ApiError):  # raised by the gate while FastAPI read the body
            return error.__cause__
        text = {404: "no such path", 405: "this path has another method"}.get(
            error.status_code, INVALID.message
        )
        return ApiError(Problem(error.status_code, INVALID.code, text))
    assert isinstance(error, ApiError)
    return error
