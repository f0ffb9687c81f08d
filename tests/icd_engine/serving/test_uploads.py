"""Bodies: no place is taken before one is there, each has a deadline, and who is refused hears of it
though still sending."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import httpx

from tests.icd_engine.serving.conftest import EDITS, FORM, png


class Sender:
    """One request by hand: what the application receives, and what it sends."""

    def __init__(self, made, *pieces: bytes, headers: dict[str, str] | None = None, end=True):
        self._app = made.app
        self._pieces = list(pieces)
        self._end = end
        self.received = 0
        self.sent: list[dict[str, Any]] = []
        self.begun = asyncio.Event()  # the answer
        form = {"Content-Type": "multipart/form-data; boundary=B"}
        given = {"Host": "x", **form, **(headers or {})}
        self._scope = {
            "type": "http",
            "method": "POST",
            "path": EDITS,
            "raw_path": EDITS.encode(),
            "query_string": b"",
            "headers": [(k.lower().encode(), v.encode()) for k, v in given.items()],
            "http_version": "1.1",
            "scheme": "http",
            "client": ("127.0.0.1", 1),
            "server": ("x", 80),
        }

    async def receive(self) -> dict[str, Any]:
        if self._pieces:
            piece = self._pieces.pop(0)
            self.received += len(piece)
            more = bool(self._pieces) or not self._end
            return {"type": "http.request", "body": piece, "more_body": more}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        self.begun.set()

    async def ask(self) -> int:
        """The status of the answer."""
        await self._app(self._scope, self.receive, self.send)
        return self.sent[0]["status"]

    @property
    def code(self) -> str:
        return json.loads(b"".join(one.get("body", b"") for one in self.sent))["error"]["code"]


def form() -> tuple[bytes, dict[str, str]]:
    files = {"image": ("a.png", png())}
    request = httpx.Request("POST", "http://x" + EDITS, data=FORM, files=files)
    return request.read(), {"Content-Type": request.headers["Content-Type"]}


def test_idle_senders_cost_nobody_an_answer(application):
    made = application()
    body, headers = form()

    async def run() -> None:
        idle = [Sender(made, b"--B\r\n", end=False) for _ in range(2 * 32)]
        waiting = [asyncio.create_task(one.ask()) for one in idle]
        await asyncio.sleep(0.05)
        arriving = made.metrics.registry.get_sample_value("icd_requests_arriving")
        assert arriving == len(idle)
        for _ in range(3):
            assert await Sender(made, body[:50], body[50:], headers=headers).ask() == 200
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert made.metrics.registry.get_sample_value("icd_requests_arriving") == 0

    asyncio.run(run())


def test_a_body_has_a_deadline_of_its_own(application):
    made = application(body_seconds=0.1, seconds=60)

    async def run() -> None:
        sender = Sender(made, b"--B\r\n", end=False)
        asking = asyncio.create_task(sender.ask())
        await asyncio.wait_for(sender.begun.wait(), 5)
        assert (sender.sent[0]["status"], sender.code) == (408, "body_too_slow")
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(run())


@pytest.mark.parametrize("told", [True, False], ids=["length", "chunked"])
def test_a_refused_upload_is_read_to_its_end(application, told):
    """The answer goes out at once; the connection is not closed under who is still sending."""
    made = application(body_bytes=1000)
    pieces = [b"x" * 500] * 6
    headers = {"Content-Length": "3000"} if told else {}

    async def run() -> None:
        sender = Sender(made, *pieces, headers=headers)
        assert await sender.ask() == 413 and sender.code == "body_too_large"
        assert sender.received == 3000
        kinds = [(one["type"], one.get("more_body")) for one in sender.sent]
        assert kinds == [
            ("http.response.start", None),
            ("http.response.body", True),
            ("http.response.body", False),
        ]

    asyncio.run(run())


def test_nobody_sends_for_ever(application):
    made = application(body_bytes=1000)

    async def run() -> None:
        sender = Sender(made, *[b"x" * 500] * 100, headers={"Content-Length": "50000"})
        assert await sender.ask() == 413
        assert 4000 <= sender.received <= 5000

    asyncio.run(run())


def test_who_asks_before_sending_is_told_at_once(application):
    made = application(body_bytes=1000)

    async def run() -> None:
        headers = {"Content-Length": "50000", "Expect": "100-continue"}
        sender = Sender(made, b"x", headers=headers)
        assert await sender.ask() == 413 and sender.received == 0

    asyncio.run(run())


def test_bodies_together_have_a_budget(application):
    """As much as the places could hold: 3 of 1000 bytes here."""
    made = application(batch=1, queue=1, body_bytes=1000)

    async def run() -> None:
        idle = [Sender(made, b"x" * 900, end=False) for _ in range(3)]
        waiting = [asyncio.create_task(one.ask()) for one in idle]
        await asyncio.sleep(0.05)
        late = Sender(made, b"x" * 900)
        assert await late.ask() == 503 and late.code == "service_full"
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        body, headers = form()
        small = Sender(made, body[:100], headers=headers)  # a broken form, but there is room
        assert await small.ask() == 400

    asyncio.run(run())


def test_a_large_body_comes_back_whole(application):
    """Beyond what is kept in memory."""
    made = application()
    picture = bytes(range(256)) * (3 << 12)
    files = {"image": ("a.png", picture)}
    assert made.client.post(EDITS, data=FORM, files=files).status_code == 200
    assert made.replicas.jobs[0].image == picture
