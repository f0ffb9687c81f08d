"""Clients that say what they will send, and then send nothing: what a service must be untouched by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

HEADER = (
    "POST /v1/images/edits HTTP/1.1\r\nHost: {host}\r\n"
    "Content-Type: multipart/form-data; boundary=B\r\nContent-Length: 100000\r\n\r\n--B\r\n"
)
PAUSE = 0.1  # seconds before a connection that was ended is made anew


@asynccontextmanager
async def idle_senders(url: str, count: int) -> AsyncIterator[None]:
    """So many of them beside what is done inside; each that the service ends comes again."""
    senders = [asyncio.create_task(_sender(url)) for _ in range(count)]
    try:
        yield
    finally:
        for one in senders:
            one.cancel()
        await asyncio.gather(*senders, return_exceptions=True)


async def _sender(url: str) -> None:
    parts = urlsplit(url)
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                writer.write(HEADER.format(host=parts.netloc).encode())
                await writer.drain()
                while await reader.read(1 << 16):
                    pass
            finally:
                writer.close()
        await asyncio.sleep(PAUSE)
