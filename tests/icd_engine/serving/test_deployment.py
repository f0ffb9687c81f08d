"""`icd serve` as clients meet it: the same pictures as the engine's, whatever came before;
overload, loss, the end."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ray.serve")
pytest.importorskip("httpx")

import httpx

from benchmarks.load import Service, drain, flood, recovery
from icd_engine.serving.deployment import GIVES_WAY
from tests.icd_engine.serving.conftest import EDITS, FORM, INVERSIONS, SOURCE, TARGET, png


def post(service: Service, path: str, data: dict, image: bytes | None = None) -> httpx.Response:
    files = None if image is None else {"image": ("a.png", image)}
    return httpx.post(service.url + path, data=data, files=files, timeout=60)


def picture(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))
    )


def metric(service: Service, name: str) -> float:
    lines = httpx.get(service.url + "/metrics", timeout=60).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.fixture(scope="module")
def expected(small_engine) -> np.ndarray:
    """The edit that every test asks for, by the library."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the service has
    try:
        return np.asarray(small_engine.edit(png(80, 60), SOURCE, TARGET, seed=5).image)
    finally:
        torch.set_num_threads(threads)


def test_an_edit_is_the_librarys_bit_for_bit(service, expected):
    answer = post(service, EDITS, {**FORM, "seed": 5}, png(80, 60))
    assert np.array_equal(picture(answer), expected)
    assert answer.json()["data"][0]["settings"]["seed"] == 5


@pytest.mark.parametrize(
    ("fields", "image", "status", "code"),
    [
        ({}, b"", 400, "invalid_image"),
        ({}, b"GIF89a" + b"0" * 100, 400, "invalid_image"),
        ({}, png(80, 60)[:200], 400, "invalid_image"),
        ({}, png(400, 300), 400, "invalid_image"),  # more than 0.1 megapixels
        ({}, b"0" * (1 << 20), 413, "body_too_large"),
        ({"image": "https://example.com/a.png"}, None, 400, "invalid_request"),
        ({"prompt": " "}, png(), 400, "invalid_prompt"),
        ({"blend": '["tree"]'}, png(), 400, "invalid_prompt"),
        ({"size": "65x64"}, png(), 400, "invalid_setting"),
        ({"size": "640x640"}, png(), 400, "invalid_setting"),
        ({"tau": "2"}, png(), 400, "invalid_setting"),
        ({"n": "100"}, png(), 400, "invalid_request"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_after_a_refusal_the_next_edit_is_the_same_as_ever(
    service, expected, fields, image, status, code
):
    answer = post(service, EDITS, {**FORM, **fields}, image)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert error["id"] == answer.headers["x-request-id"] and "0x" not in error["message"]
    assert np.array_equal(picture(post(service, EDITS, {**FORM, "seed": 5}, png(80, 60))), expected)


def test_a_kept_picture_is_edited_as_the_whole_one(service, expected, small_engine):
    """To the bit as by the library; a whole edit has its source rows in the same batch as its
    target, which may round a value the other way."""
    kept = np.asarray(small_engine.invert(png(80, 60), SOURCE, seed=5).edit(TARGET).image)
    assert np.abs(kept.astype(int) - expected).max() <= 1
    made = post(service, INVERSIONS, {"source_prompt": SOURCE, "seed": 5}, png(80, 60)).json()
    path = f"{INVERSIONS}/{made['id']}/edits"
    for _ in range(2):
        assert np.array_equal(picture(post(service, path, {"prompt": TARGET})), kept)
    answer = post(service, f"{INVERSIONS}/inv_unknown/edits", {"prompt": TARGET})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_inversion")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc to look into")
def test_edits_give_way_to_those_who_answer(service, expected):
    """Beside an edit on the same processors a refusal would wait for its turn."""
    assert np.array_equal(picture(post(service, EDITS, {**FORM, "seed": 5}, png(80, 60))), expected)
    (replica,) = service.replicas()
    threads = [int(task.name) for task in Path(f"/proc/{replica.pid}/task").iterdir()]
    behind = {os.getpriority(os.PRIO_PROCESS, thread) - replica.nice() for thread in threads}
    assert behind == {0, GIVES_WAY}


def test_requests_share_passes_and_are_counted(service):
    before = (
        metric(service, "icd_batch_requests_sum"),
        metric(service, f'icd_requests_total{{route="{EDITS}",status="200"'),
    )

    async def together() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=60) as client:
            jobs = (
                client.post(service.url + EDITS, data=FORM, files={"image": png(seed=i)})
                for i in range(12)
            )
            return await asyncio.gather(*jobs)

    assert {answer.status_code for answer in asyncio.run(together())} == {200}
    after = (
        metric(service, "icd_batch_requests_sum"),
        metric(service, f'icd_requests_total{{route="{EDITS}",status="200"'),
    )
    assert after[1] - before[1] == 12
    assert after[0] - before[0] > 12  # at least one pass was shared
    assert metric(service, "icd_worker_memory_bytes") > 50e6


def gone(service: Service) -> float:
    """Clients that went away, before their request was routed or after."""
    return sum(
        metric(service, f'icd_requests_total{{route="{route}",status="499"')
        for route in (EDITS, "unrouted")
    )


def test_a_client_that_disconnects_leaves_its_place(service):
    before = gone(service)
    with pytest.raises(httpx.ReadTimeout):
        files = {"image": ("a.png", png(300, 300))}
        httpx.post(
            service.url + EDITS,
            data={**FORM, "n": "4"},
            files=files,
            timeout=httpx.Timeout(60, read=0.01),
        )
    end = time.monotonic() + 60
    while gone(service) == before:
        assert time.monotonic() < end, "the request is still in the service"
        time.sleep(0.05)
    assert metric(service, "icd_requests_in_flight") == 0


def test_only_clients_reach_the_service_from_elsewhere(service, tmp_path):
    """Ray's ports answer this machine only, or those who have its secret: whoever reaches them can
    run code."""
    grpc = pytest.importorskip("grpc")
    from ray.serve.generated.serve_pb2 import ASGIRequest
    from ray.serve.generated.serve_pb2_grpc import ASGIServiceStub

    processes = [service.process, *service.process.children(recursive=True)]
    sockets = [
        one
        for process in processes
        for one in process.net_connections("inet")
        if one.status == "LISTEN"
    ]
    everywhere = [
        one.laddr.port for one in sockets if not one.laddr.ip.endswith(("127.0.0.1", "::1"))
    ]
    # Serve opens one for the front and one for the replica
    assert len(sockets) > len(everywhere) == 2
    for port in everywhere:
        with (
            grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
            pytest.raises(grpc.RpcError) as caught,
        ):
            request = ASGIRequest(pickled_request_metadata=pickle.dumps(Touch(tmp_path / "run")))
            ASGIServiceStub(channel).HandleRequest(request, timeout=30)
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert not (tmp_path / "run").exists()


class Touch:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path):
        self._path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self._path,)


# --- long -----------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_flood_loses_nothing():
    """On the embedded model: ten times what the small one can do is more than its clients can send
    from two cores."""
    with Service("--model", "tiny", "--device", "cpu") as own:
        result = asyncio.run(flood(own, batch=8, times=10, seconds=20, idle=32))
    print(result)
    assert result["sent"] == result["answered"] + result["rejected"]
    assert result["answered"] > 0 and result["rejected"] > result["answered"]
    first, *_, last = (sum(memory.values()) for memory in result["memory_mib"])
    assert last < 1.25 * first


@pytest.mark.long
def test_a_lost_replica_comes_back(small_bundle):
    with Service("--model", str(small_bundle), "--device", "cpu") as own:
        result = asyncio.run(recovery(own))
        print(result)
        assert set(result["recovery_statuses"]) <= {"200", "503"} and result["recovery_s"] < 60
        ended = asyncio.run(drain(own, requests=8))
        print(ended)
        assert (
            ended["drain_statuses"] == {"200": 8}
            and ended["drain_late"] == 503
            and ended["exit_code"] == 0
        )


@pytest.mark.long
def test_a_service_without_its_cluster_ends(small_bundle):
    """So that whatever started it starts it anew: Ray's own calls would wait without end."""
    with Service("--model", str(small_bundle), "--device", "cpu") as own:
        for process in own.process.children():
            process.kill()
        assert own.process.wait(120) == 1
