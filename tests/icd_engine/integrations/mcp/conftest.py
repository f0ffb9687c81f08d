"""A desk of an engine of random weights, and what a client of its server is told."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("mcp")

from mcp import Client

from icd_engine.integrations.mcp.folder import Granted
from icd_engine.integrations.mcp.pictures import Pictures
from icd_engine.integrations.mcp.server import server
from icd_engine.integrations.mcp.work import Desk
from tests.icd_engine.plain_loops import picture

Talk = Callable[[Client], Any]


def file_of(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return buffer.getvalue()


def content(data: bytes) -> dict[str, str]:
    return {
        "type": "image",
        "data": base64.b64encode(data).decode(),
        "mimeType": "image/png",
    }


def talked(desk: Desk, talk: Talk) -> Any:
    """What a coroutine of a client that is connected in memory returns."""

    async def connected() -> Any:
        async with Client(server(desk)) as client:
            return await talk(client)

    return asyncio.run(connected())


def called(desk: Desk, tool: str, **arguments: Any) -> Any:
    return talked(desk, lambda client: client.call_tool(tool, arguments))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "granted"
    path.mkdir()
    (path / "in.png").write_bytes(file_of())
    return path


@pytest.fixture
def desk(small_engine, folder) -> Desk:
    pictures = Pictures(Granted(folder), pixels=10_000, file_bytes=100_000)
    return Desk(lambda: small_engine, "small", pictures, most=2)
