"""What every request passes before it is worked on: token, size, body, room, time; and what is counted
of it."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from icd_engine.serving.limits import (
    FULL,
    INTERNAL,
    NO_TOKEN,
    STOPPING,
    TOO_SLOW,
    ApiError,
    Limits,
)
from icd_engine.serving.uploads import DRAINED, Body, Uploads

GUARDED = "/v1/"
GONE = 499  # in the metrics: the client went away before the answer

logger = logging.getLogger("ray.serve")  # it writes the id of the request with every line


class Metrics:
    """What `/metrics` tells."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        own: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("icd_requests", "Requests answered.", ["route", "status"], **own)
        self.seconds = Histogram("icd_request_seconds", "Of answered requests.", ["route"], **own)
        self.in_flight = Gauge("icd_requests_in_flight", "Requests in the service.", **own)
        self.arriving = Gauge("icd_requests_arriving", "Requests whose body is read.", **own)
        self.inversions = Gauge("icd_inversions", "Inversions kept.", **own)
        self.pictures = Counter("icd_pictures", "Pictures made.", **own)
        self.batch = Histogram(
            "icd_batch_requests", "Requests of a pass.", buckets=(1, 2, 4, 8, 16, 32), **own
        )
        self.worker = Gauge(
            "icd_worker_memory_bytes", "Resident, of the worker that answered last.", **own
        )


class Room:
    """How many requests are in the service, and whether it still takes any."""

    def __init__(self, capacity: int, gauge: Gauge):
        self._capacity = capacity
        self._gauge = gauge
        self._held = 0
        self.closing = False

    def check(self) -> None:
        """Raises ApiError where there is no place."""
        if self.closing or self._held >= self._capacity:
            raise ApiError(STOPPING if self.closing else FULL)

    @contextmanager
    def place(self) -> Iterator[None]:
        """One place. Raises ApiError where there is none."""
        self.check()
        self._held += 1
        self._gauge.set(self._held)
        try:
            yield
        finally:
            self._held -= 1
            self._gauge.set(self._held)

    async def empty(self) -> None:
        """Takes no more requests, and returns when the last one is answered."""
        self.closing = True
        while self._held:
            await asyncio.sleep(0.05)


class Gate:
    """ASGI middleware. What it refuses costs neither a parsed body nor a worker's time."""

    def __init__(
        self, app: ASGIApp, *, limits: Limits, token: str | None, room: Room, metrics: Metrics
    ):
        self._app = app
        self._limits = limits
        self._token = token
        self._room = room
        self._metrics = metrics
        self._uploads = Uploads(limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began = time.perf_counter()
        status = GONE

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        body = Body(scope, receive)
        try:
            await self._answer(scope, body, receive, noting)
        except ClientDisconnect:
            pass  # nobody is there to be answered
        except Exception as error:
            if not isinstance(error, ApiError):
                logger.exception("a request failed")
            if status == GONE:  # nothing was sent
                refusal = error if isinstance(error, ApiError) else ApiError(INTERNAL)
                await self._refuse(response(refusal, request_id(scope)), body, noting)
        finally:
            # A path that is none of ours must not make a new time series.
            route = getattr(scope.get("route"), "path", "unrouted")
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - began)

    async def _answer(self, scope: Scope, body: Body, receive: Receive, send: Send) -> None:
        # Browsers ask what they may send before they send a token
        if not scope["path"].startswith(GUARDED) or scope["method"] == "OPTIONS":
            return await self._app(scope, receive, send)
        self._check_token(scope)
        if scope["method"] != "POST":
            return await self._app(scope, receive, send)
        # No place is taken for a body that has not come: whoever sends slowly keeps nobody out
        self._room.check()
        async with AsyncExitStack() as kept:
            with self._metrics.arriving.track_inprogress():
                replay = await kept.enter_async_context(self._uploads.read(body, receive))
            with self._room.place():
                await self._in_time(scope, replay, send)

    async def _in_time(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._limits.seconds):
                await self._app(scope, receive, send)
        except TimeoutError:
            raise ApiError(TOO_SLOW) from None

    async def _refuse(self, refusal: JSONResponse, body: Body, send: Send) -> None:
        """The refusal at once, and its end when the body is read: a server closes the connection after
        an answer, and a client that is still sending would hear of that alone."""
        headers = refusal.raw_headers
        start = {"type": "http.response.start", "status": refusal.status_code, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": refusal.body, "more_body": True})
        await body.drained(DRAINED * self._limits.body_bytes)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _check_token(self, scope: Scope) -> None:
        if self._token is None:
            return
        kind, _, given = _header(scope, b"authorization").partition(b" ")
        # Both comparisons always: how long they take tells nothing.
        if not (
            hmac.compare_digest(given.strip(), self._token.encode()) & (kind.lower() == b"bearer")
        ):
            raise ApiError(NO_TOKEN)


def request_id(scope: Scope) -> str:
    """The id that Serve gives every request, sends back as X-Request-Id and writes into its log."""
    return _header(scope, b"x-request-id").decode("latin-1")


def response(error: ApiError, of_request: str) -> JSONResponse:
    """A refusal as it is sent."""
    return JSONResponse(error.body(of_request), error.problem.status, headers=error.headers)


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")
