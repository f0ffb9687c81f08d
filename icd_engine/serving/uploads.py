"""Bodies of requests: read whole within their limits before anything is done for them, and what is
refused read to its end, so that its client hears why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from os import SEEK_END
from tempfile import SpooledTemporaryFile
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from icd_engine.serving.limits import FULL, STALLED, TOO_LARGE, ApiError, Limits

IN_MEMORY = 1 << 20  # bytes of a body; more lies in a temporary file
PIECE = 1 << 18  # bytes
# Of a refused body: clients that send all before they listen hear of it, and nobody can send for ever
DRAINED = 4  # times the largest body
DRAIN_SECONDS = 10.0


class Body:
    """The body of one request as it arrives."""

    def __init__(self, scope: Scope, receive: Receive):
        self._receive = receive
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        self.length = int(length) if length.isdigit() else None
        # Its client sends nothing before it is asked to
        self._waits = headers.get(b"expect", b"").lower() == b"100-continue"
        self._asked = False
        self._ended = self.length == 0

    async def piece(self) -> bytes | None:
        """The next bytes; None at the end. Raises ClientDisconnect."""
        if self._ended:
            return None
        self._asked = True
        try:
            message = await self._receive()
        except Exception:  # Serve's own, for a client that is gone
            message = {"type": "http.disconnect"}
        if message["type"] == "http.disconnect":
            self._ended = True
            raise ClientDisconnect()
        self._ended = not message.get("more_body", False)
        body: Any = message.get("body", b"")
        return body

    async def drained(self, most: int) -> None:
        """Reads what is left, up to so many bytes and for DRAIN_SECONDS, and forgets it."""
        if self._waits and not self._asked:
            return
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while most > 0 and (data := await self.piece()) is not None:
                    most -= len(data)
        except (TimeoutError, ClientDisconnect):
            return


class Uploads:
    """The bodies that are being read. They hold no places in the service, only bytes of a common
    budget: as many as its places could hold."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._budget = limits.capacity * limits.body_bytes
        self._held = 0

    @asynccontextmanager
    async def read(self, body: Body, receive: Receive) -> AsyncIterator[Receive]:
        """A `receive` of the whole body, and then of what else comes. Raises ApiError, ClientDisconnect."""
        if body.length is not None and body.length > self._limits.body_bytes:
            raise ApiError(TOO_LARGE)
        with SpooledTemporaryFile(IN_MEMORY) as file:
            try:
                await self._fill(file, body)
                size = file.tell()
                file.seek(0)
                yield _replayed(file, size, receive)
            finally:
                file.seek(0, SEEK_END)
                self._held -= file.tell()

    async def _fill(self, file: SpooledTemporaryFile, body: Body) -> None:
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while (data := await body.piece()) is not None:
                    file.write(data)
                    self._held += len(data)
                    if file.tell() > self._limits.body_bytes:  # chunked bodies tell no length
                        raise ApiError(TOO_LARGE)
                    if self._held > self._budget:
                        raise ApiError(FULL)
        except TimeoutError:
            raise ApiError(STALLED) from None


def _replayed(file: SpooledTemporaryFile, size: int, receive: Receive) -> Receive:
    left: int | None = size

    async def replay() -> Message:
        nonlocal left
        if left is None:
            return await receive()
        data = file.read(PIECE)
        left = left - len(data) if left > len(data) else None
        return {"type": "http.request", "body": data, "more_body": left is not None}

    return replay
