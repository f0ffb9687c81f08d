"""The server over HTTP: the official client gets in with the token, and nobody without."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from icd_engine.errors import RunnerError
from icd_engine.integrations.mcp.listen import over_http
from icd_engine.integrations.mcp.server import server

TOKEN = "right"
HEADERS = {"Accept": "application/json, text/event-stream"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def served(desk, token: str | None, body: int = 10_000):
    stopped, port = threading.Event(), free_port()
    arguments = (server(desk), "127.0.0.1", port, token, body, stopped)
    thread = threading.Thread(target=over_http, args=arguments)
    thread.start()
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        stopped.set()
        thread.join(10)
        assert not thread.is_alive()


def edited(url: str, token: str | None):
    async def talk():
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with (
            httpx2.AsyncClient(headers=headers, trust_env=False) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            return await client.call_tool("edit_picture", {"image": "in.png", "prompt": "x"})

    return asyncio.run(talk())


@pytest.mark.parametrize("token", [None, TOKEN])
def test_the_official_client_edits(desk, token):
    with served(desk, token) as url:
        result = edited(url, token)
    assert not result.is_error and result.content[0].type == "image"


def test_nobody_without_the_token(desk):
    with served(desk, TOKEN) as url, httpx2.Client(trust_env=False) as http:
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            answer = http.post(url, json={}, headers={**HEADERS, **header})
            assert answer.status_code == 401 and "Bearer TOKEN" in answer.json()["error"]


def test_a_page_under_another_name_and_a_large_body(desk):
    with served(desk, None) as url, httpx2.Client(trust_env=False) as http:
        by_name = http.post(url, json={}, headers={**HEADERS, "Host": "evil.example"})
        from_page = http.post(url, json={}, headers={**HEADERS, "Origin": "https://evil.example"})
        large = http.post(
            url, content=b" " * 10_001, headers={**HEADERS, "Content-Type": "application/json"}
        )
    assert (by_name.status_code, from_page.status_code, large.status_code) == (421, 403, 413)


def test_a_port_that_is_taken(desk):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RunnerError, match=f"127.0.0.1 port {port}"):
            over_http(server(desk), "127.0.0.1", port, None, 1000, threading.Event())
