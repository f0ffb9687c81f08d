"""What every request passes: token, room, size and time, each with its status, its text and nothing
left behind."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("httpx")

import httpx

from tests.icd_engine.serving.conftest import EDITS, FORM, INVERSIONS, png

FILES = {"image": ("a.png", png())}


def error_of(answer) -> dict:
    """The error of a refusal, whose shape is OpenAI's."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code", "id"}
    assert error["type"] == (
        "server_error" if answer.status_code >= 500 else "invalid_request_error"
    )
    return error


def asynchronous(made) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(made.app), base_url="http://service")


def value(made, name: str, **labels: str) -> float:
    return made.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize("path", [EDITS, INVERSIONS, f"{INVERSIONS}/some/edits"])
@pytest.mark.parametrize(
    "given", [None, "Bearer wrong", "Bearer ", "Basic right", "right", "Bearer rightx", "Bearer é"]
)
def test_without_the_token_nothing_of_v1_is_done(application, path, given):
    made = application(token="right")
    headers = {} if given is None else {"Authorization": given.encode("latin-1")}
    answer = made.client.post(path, data=FORM, files=FILES, headers=headers)
    assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
    assert error_of(answer)["code"] == "invalid_token" and made.replicas.jobs == []


@pytest.mark.parametrize("given", ["Bearer right", "bearer right", "BEARER  right "])
def test_with_the_token_edits_are_done(application, given):
    made = application(token="right")
    assert (
        made.client.post(
            EDITS, data=FORM, files=FILES, headers={"Authorization": given}
        ).status_code
        == 200
    )
    assert len(made.replicas.jobs) == 1


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/openapi.json"])
def test_the_rest_needs_no_token(application, path):
    assert application(token="right").client.get(path).status_code == 200


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_large_body_is_refused_before_it_is_parsed(application, chunked):
    made = application(body_bytes=5000)
    request = httpx.Request(
        "POST", "http://testserver" + EDITS, data=FORM, files={"image": ("a.png", b"0" * 5000)}
    )
    body, headers = request.read(), {"Content-Type": request.headers["Content-Type"]}
    answer = made.client.post(
        EDITS, content=iter([body[:3000], body[3000:]]) if chunked else body, headers=headers
    )
    assert answer.status_code == 413 and error_of(answer)["code"] == "body_too_large"
    assert made.replicas.jobs == []


def test_a_full_service_refuses_at_once_and_takes_again(application):
    made = application(batch=1, queue=1)  # two that a replica holds and one that waits

    async def run() -> None:
        free = asyncio.Event()
        made.replicas.answer = lambda job: free.wait()
        async with asynchronous(made) as client:
            held = [
                asyncio.create_task(client.post(EDITS, data=FORM, files=FILES)) for _ in range(3)
            ]
            while len(made.replicas.jobs) < 3:
                await asyncio.sleep(0.01)
            refused = await client.post(EDITS, data=FORM, files=FILES)
            assert refused.status_code == 503 and refused.headers["Retry-After"] == "2"
            assert error_of(refused)["code"] == "service_full"
            assert (await client.get("/health")).status_code == 200
            assert value(made, "icd_requests_in_flight") == 3
            free.set()
            assert {answer.status_code for answer in await asyncio.gather(*held)} == {200}
            assert (await client.post(EDITS, data=FORM, files=FILES)).status_code == 200

    asyncio.run(run())
    assert len(made.replicas.jobs) == 4 and value(made, "icd_requests_in_flight") == 0


def test_what_takes_too_long_is_ended_and_answered(application):
    made, ended = application(seconds=0.2), []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    made.replicas.answer = lambda job: forever()
    answer = made.client.post(EDITS, data=FORM, files=FILES)
    assert answer.status_code == 504 and error_of(answer)["code"] == "deadline_exceeded"
    assert ended == [True] and value(made, "icd_requests_in_flight") == 0


def test_a_client_that_goes_ends_its_job(application):
    made, ended = application(), []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def run() -> None:
        made.replicas.answer = lambda job: forever()
        async with asynchronous(made) as client:
            request = asyncio.create_task(client.post(EDITS, data=FORM, files=FILES))
            while not made.replicas.jobs:
                await asyncio.sleep(0.01)
            request.cancel()  # what Serve does to the front when a client disconnects
            await asyncio.gather(request, return_exceptions=True)

    asyncio.run(run())
    assert ended == [True] and value(made, "icd_requests_in_flight") == 0
    assert value(made, "icd_requests_total", route=EDITS, status="499") == 1


def test_a_stopping_service_answers_what_came_and_refuses_what_comes(application):
    made = application()

    async def run() -> None:
        free = asyncio.Event()
        made.replicas.answer = lambda job: free.wait()
        async with asynchronous(made) as client:
            held = asyncio.create_task(client.post(EDITS, data=FORM, files=FILES))
            while not made.replicas.jobs:
                await asyncio.sleep(0.01)
            emptied = asyncio.create_task(made.room.empty())
            await asyncio.sleep(0)
            refused = await client.post(EDITS, data=FORM, files=FILES)
            assert refused.status_code == 503 and error_of(refused)["code"] == "service_stopping"
            assert not emptied.done()
            free.set()
            assert (await held).status_code == 200
            await asyncio.wait_for(emptied, 10)

    asyncio.run(run())


def test_a_failure_says_nothing_of_the_inside(application):
    made = application()

    def fail(job) -> None:
        raise RuntimeError("<PIL.Image object at 0x7f0123456789>")

    made.replicas.answer = fail
    answer = made.client.post(EDITS, data=FORM, files=FILES)
    assert answer.status_code == 500 and "0x" not in answer.text
    assert error_of(answer)["code"] == "internal_error" and error_of(answer)["id"] == "the-id"
    made.replicas.answer = None
    assert made.client.post(EDITS, data=FORM, files=FILES).status_code == 200


def test_requests_are_counted_by_route_and_status(application):
    made = application(body_bytes=5000)
    made.client.post(EDITS, data=FORM, files={"image": ("a.png", b"0" * 100)})
    made.client.post(EDITS, data=FORM, files={"image": ("a.png", b"0" * 6000)})
    made.client.post(EDITS, data={"n": "9"}, files={"image": ("a.png", b"0" * 100)})
    for name in ("a", "b"):
        made.client.get(f"/no/such/{name}")
    text = made.client.get("/metrics").text
    assert f'icd_requests_total{{route="{EDITS}",status="200"}} 1.0' in text
    assert f'icd_requests_total{{route="{EDITS}",status="400"}} 1.0' in text
    # Refused before it was routed
    assert 'icd_requests_total{route="unrouted",status="413"} 1.0' in text
    assert (
        'icd_requests_total{route="unrouted",status="404"} 2.0' in text and "/no/such" not in text
    )
    assert "icd_pictures_total 1.0" in text and "icd_worker_memory_bytes 1000.0" in text
