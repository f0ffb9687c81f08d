"""The HTTP application: paths, their document, and every refusal in one shape. It knows no Ray."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

import icd_engine
from icd_engine.errors import shown
from icd_engine.serving import asked, forms
from icd_engine.serving.bodies import EditRoute, JsonEdit
from icd_engine.serving.gate import Gate, Metrics, Room, request_id, response
from icd_engine.serving.http import Backend, Routes
from icd_engine.serving.limits import INVALID, ApiError, Limits, Problem
from icd_engine.serving.offer import Offer
from icd_engine.serving.schemas import (
    EVENTS,
    FILES,
    REFUSALS,
    Images,
    InversionInfo,
)

EDITS, INVERSIONS, MODELS = "/v1/images/edits", "/v1/inversions", "/v1/models"
PREFLIGHT = 600  # seconds that a browser keeps what it was told


def application(
    backend: Backend,
    limits: Limits,
    token: str | None,
    room: Room,
    metrics: Metrics,
    offer: Offer | None = None,
) -> FastAPI:
    """The routes behind the gate."""
    offer = offer or Offer()
    app = FastAPI(
        title="icd",
        summary=icd_engine.__doc__,
        version=icd_engine.__version__,
        docs_url=None,
        redoc_url=None,
    )
    app.router.redirect_slashes = False
    app.add_middleware(Gate, limits=limits, token=token, room=room, metrics=metrics)
    if offer.origins:  # outside of the gate, whose refusals a page is to read too
        app.add_middleware(
            CORSMiddleware,
            allow_origins=offer.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After"],
            max_age=PREFLIGHT,
        )
    for kind in (ApiError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _refused)
    routes = Routes(backend, limits, offer, metrics)
    _add_edits(app, routes, token)
    _add_questions(app, routes, token)
    _add_options(app)
    # Made once, and kept by the app
    for name, schema in app.openapi()["components"]["schemas"].items():
        if name.startswith("Body_"):
            schema["additionalProperties"] = False  # as `forms.only` has it
    return app


def _add_edits(app: FastAPI, routes: Routes, token: str | None) -> None:
    # For the document: the gate checks it
    bearer = [] if token is None else [Depends(HTTPBearer(auto_error=False))]
    for path, route, model in (
        (EDITS, routes.edit, Images),
        (INVERSIONS, routes.invert, InversionInfo),
        (INVERSIONS + "/{inversion_id}/edits", routes.edit_kept, Images),
    ):
        own = path == EDITS
        functions = [route, *([forms.settings] if model is Images else [])]
        functions += [asked.asked] if own else []
        app.router.add_api_route(
            path,
            route,
            methods=["POST"],
            response_model=model,
            responses=REFUSALS | (EVENTS if own else {}),
            dependencies=[*bearer, forms.only(*functions)],
            openapi_extra=_with_json() if own else FILES,
            route_class_override=EditRoute if own else APIRoute,
        )


def _with_json() -> dict[str, Any]:
    """The document's bodies of an edit: the form, and the same as JSON."""
    schema = JsonEdit.model_json_schema()
    content = {**FILES["requestBody"]["content"], "application/json": {"schema": schema}}
    return {"requestBody": {"content": content}}


def _add_questions(app: FastAPI, routes: Routes, token: str | None) -> None:
    """What is asked for by GET, and by HEAD, which the document leaves out."""
    bearer = [] if token is None else [Depends(HTTPBearer(auto_error=False))]
    refused = {"4XX": REFUSALS["4XX"], 500: REFUSALS[500]}
    text: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
    }
    paths: list[tuple[str, Any, dict[str, Any]]] = [
        (MODELS, routes.models, {"dependencies": bearer, "responses": refused}),
        (MODELS + "/{model}", routes.model, {"dependencies": bearer, "responses": refused}),
        ("/health", routes.health, {}),
        ("/ready", routes.ready, {"responses": {503: REFUSALS[503]}}),
        ("/metrics", routes.metrics, {"response_class": Response, "responses": text}),
    ]
    for path, route, options in paths:
        app.add_api_route(path, route, **options)
        app.add_api_route(path, route, methods=["HEAD"], include_in_schema=False, **options)


def _add_options(app: FastAPI) -> None:
    """What each path takes, asked by OPTIONS."""
    methods: dict[str, set[str]] = {}
    for route in app.routes:
        if isinstance(route, APIRoute):
            methods.setdefault(route.path, {"OPTIONS"}).update(route.methods or ())
    for path, known in methods.items():
        answer = _fixed(", ".join(sorted(known)))
        app.router.add_route(path, answer, methods=["OPTIONS"], include_in_schema=False)


def _fixed(allow: str) -> Any:
    """An answer without a body that has this header."""

    async def answer(_: Request) -> Response:
        return Response(status_code=204, headers={"Allow": allow})

    return answer


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
        text = "a file is expected" if first["type"] == "value_error" else first["msg"]
        if first["type"] == "literal_error":
            text = f"{text}, not {shown(first['input'])}"
        return ApiError(INVALID, f"{field}: {text}", field)
    if isinstance(error, HTTPException):
        if isinstance(error.__cause__, ApiError):  # raised while FastAPI read the body
            return error.__cause__
        text = {404: "no such path", 405: "this path has another method"}.get(
            error.status_code, INVALID.message
        )
        return ApiError(Problem(error.status_code, INVALID.code, text))
    assert isinstance(error, ApiError)
    return error
