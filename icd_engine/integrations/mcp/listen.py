"""How clients reach the server: standard input and output, or HTTP with a token."""

from __future__ import annotations

import socket
from threading import Event, Thread

import anyio
import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from icd_engine.bearer import bears
from icd_engine.errors import RunnerError
from icd_engine.integrations.mcp.server import Server

PATH = "/mcp"
NO_TOKEN = "this server needs its token: Authorization: Bearer TOKEN"


class Guard:
    """ASGI middleware: nothing is answered without the token."""

    def __init__(self, app: ASGIApp, token: str):
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not bears(scope["headers"], self._token):
            refusal = JSONResponse({"error": NO_TOKEN}, 401, {"WWW-Authenticate": "Bearer"})
            return await refusal(scope, receive, send)
        await self._app(scope, receive, send)


def over_stdio(server: Server) -> None:
    """Serves the client that started this process, until it closes standard input."""
    anyio.run(server.run_stdio_async)


def application(server: Server, host: str, token: str | None, body_bytes: int) -> ASGIApp:
    """What answers HTTP at /mcp. On an address of this machine alone, only names of this machine are
    answered to, so that a page in a browser cannot reach it by another."""
    app = server.streamable_http_app(
        streamable_http_path=PATH, host=host, max_request_body_size=body_bytes
    )
    return app if token is None else Guard(app, token)


def over_http(
    server: Server, host: str, port: int, token: str | None, body_bytes: int, stopped: Event
) -> None:
    """Serves until `stopped`, and then answers what is under way. RunnerError where the port is
    taken."""
    app = application(server, host, token, body_bytes)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
    running = uvicorn.Server(config)
    with _listening(host, port) as door:
        thread = Thread(target=running.run, kwargs={"sockets": [door]})
        thread.start()
        while thread.is_alive() and not stopped.wait(0.2):
            pass
        running.should_exit = True
        thread.join()


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise RunnerError(f"cannot listen on {host} port {port}: {error.strerror}") from None
