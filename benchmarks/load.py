"""What `icd serve` does under ten times its load, without its worker, and at its end."""

from __future__ import annotations

import asyncio
import io
import signal
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles
from types import TracebackType
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

from benchmarks.checks import Refused
from benchmarks.idle import idle_senders
from benchmarks.program import SOURCE, TARGET, flags, start
from icd_engine.serving.limits import Limits

REPLICA = "ray::ServeReplica:icd:Replica"  # as Ray names the process
LOST = 0  # in place of a status: no answer came
PATIENCE = 180.0  # seconds a client waits
TIMES = 10.0  # what is sent, over what the service can do
LIMITS = Limits()


class Service:
    """`icd serve` as a process of its own on a free port, warm inside the `with` block."""

    def __init__(self, *options: str):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._arguments = ["serve", "--port", str(port), *options]

    def __enter__(self) -> Service:
        self.process = start(*self._arguments)
        try:
            self.wait_until_ready()
        except BaseException:
            if self.process.is_running():
                self.process.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.is_running():
            self.stop()

    def wait_until_ready(self) -> None:
        """Raises Refused if the service ends instead, or takes minutes."""
        end = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < end:
            try:
                if httpx.get(f"{self.url}/ready", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise Refused(f"icd serve is not ready (exit code {self.process.returncode})")

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        except psutil.TimeoutExpired:
            self.process.kill()
            raise

    def replicas(self) -> list[psutil.Process]:
        """The processes that own an engine."""
        return [
            process
            for process in self.process.children(recursive=True)
            if _title(process).startswith(REPLICA)
        ]

    def memory_mib(self) -> dict[str, int]:
        """Of their own, by part of the service: what processes share is counted in none."""
        parts: Counter[str] = Counter()
        for process in [self.process, *self.process.children(recursive=True)]:
            try:
                # "ray::ServeReplica:icd:Front.what_it_does"
                name = _title(process).partition(":icd:")[2].partition(".")[0].lower() or "ray"
                parts[name] += process.memory_full_info().uss
            except psutil.Error:  # it has just ended
                continue
        return {name: size >> 20 for name, size in parts.items()}


@dataclass(frozen=True)
class Answer:
    """began: seconds since the start of the run. status: LOST where none came."""

    began: float
    status: int
    seconds: float


class Clients:
    """Requests to one service, each for an edit of its own."""

    def __init__(self, url: str, size: int = 128):
        pixels = np.linspace(0, 255, size, dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(
            np.stack(np.broadcast_arrays(pixels, pixels[:, None], 128), -1).astype(np.uint8)
        ).save(file, "PNG")
        self._picture = file.getvalue()
        self._url = url
        self._sent = 0
        self._start = time.perf_counter()
        self._http = httpx.AsyncClient(timeout=PATIENCE, limits=httpx.Limits(max_connections=None))

    async def __aenter__(self) -> Clients:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def edit(self) -> Answer:
        self._sent += 1
        fields = {"source_prompt": SOURCE, "prompt": TARGET, "seed": str(self._sent)}
        fields["auto"] = "false"  # plain edits share passes, whatever the model prefers
        began = time.perf_counter()
        try:
            url = f"{self._url}/v1/images/edits"
            files = {"image": ("a.png", self._picture)}
            status = (await self._http.post(url, data=fields, files=files)).status_code
        except httpx.HTTPError:
            status = LOST
        return Answer(began - self._start, status, time.perf_counter() - began)

    async def closed(self, clients: int, seconds: float) -> list[Answer]:
        """So many clients, each with one request after the other."""
        end = time.perf_counter() + seconds

        async def client() -> list[Answer]:
            answers = []
            while time.perf_counter() < end:
                answers.append(await self.edit())
            return answers

        return [
            answer
            for answers in await asyncio.gather(*(client() for _ in range(clients)))
            for answer in answers
        ]

    async def open(self, rate: float, seconds: float) -> list[Answer]:
        """So many requests a second, whatever becomes of them."""
        start = time.perf_counter()
        tasks = []
        for i in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, start + i / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(self.edit()))
        return list(await asyncio.gather(*tasks))


def measure_load(
    *, model: str, runner: str, device: str, dtype: str, seconds: float, idle: int = 0
) -> dict[str, Any]:
    """Floods, loses and ends one service. Raises Refused where it does not start.

    seconds: of the flood. idle: clients beside it that send no body. sent = answered + rejected + lost
    + others; memory is what each part of the service has for itself, once a second.
    """
    options = {"model": model, "runner": runner, "device": device, "dtype": dtype}
    began = time.perf_counter()
    with Service(*flags(options)) as service:
        return {
            "model": model,
            "runner": runner,
            "dtype": dtype,
            "batch": LIMITS.batch,
            "capacity": LIMITS.capacity,
            "times": TIMES,
            "ready_s": round(time.perf_counter() - began, 1),
            "idle_uploaders": idle,
            **asyncio.run(
                flood(service, batch=LIMITS.batch, times=TIMES, seconds=seconds, idle=idle)
            ),
            **asyncio.run(recovery(service)),
            **asyncio.run(drain(service, requests=LIMITS.batch)),
        }


async def flood(
    service: Service, *, batch: int, times: float, seconds: float, idle: int = 0
) -> dict[str, Any]:
    """Measures how many edits a second the service makes, then sends `times` as many."""
    async with Clients(service.url) as clients, idle_senders(service.url, idle):
        await clients.closed(batch, 2)
        rate = len(await clients.closed(batch, seconds / 2)) / (seconds / 2)
        memory = [service.memory_mib()]
        ended = asyncio.Event()

        async def weigh() -> None:
            while not ended.is_set():
                await asyncio.sleep(1)
                memory.append(await asyncio.to_thread(service.memory_mib))

        weighing = asyncio.create_task(weigh())
        began = time.perf_counter()
        answers = await clients.open(rate * times, seconds)
        took = time.perf_counter() - began
        ended.set()
        await weighing
    return {
        "alone_edits_per_s": round(rate, 2),
        "offered_per_s": round(rate * times, 1),
        **summary(answers),
        "edits_per_s": round(sum(answer.status == 200 for answer in answers) / took, 2),
        "memory_mib": memory,
    }


async def recovery(service: Service, *, every: float = 0.25) -> dict[str, Any]:
    """Kills the replica under requests and waits for the first edit by a new one."""
    async with Clients(service.url) as clients:
        killed = service.replicas()[0]
        under_way = [asyncio.create_task(clients.edit()) for _ in range(4)]
        await asyncio.sleep(0.1)
        killed.kill()
        began = time.perf_counter()
        after = [await clients.edit()]
        while after[-1].status != 200:
            await asyncio.sleep(every)
            after.append(await clients.edit())
        took = round(time.perf_counter() - began, 2)
        return {
            "recovery_s": took,
            "recovery_statuses": _statuses([*await asyncio.gather(*under_way), *after]),
        }


async def drain(service: Service, *, requests: int) -> dict[str, Any]:
    """SIGTERM under requests: what becomes of them, and of one that comes after."""
    async with Clients(service.url) as clients:
        tasks = [asyncio.create_task(clients.edit()) for _ in range(requests)]
        await asyncio.sleep(0.5)
        began = time.perf_counter()
        stopping = asyncio.create_task(asyncio.to_thread(service.stop))
        await asyncio.sleep(0.3)
        late = await clients.edit()
        answers = list(await asyncio.gather(*tasks))
        code = await stopping
    return {
        "drain_statuses": _statuses(answers),
        "drain_late": late.status,
        "drain_s": round(time.perf_counter() - began, 2),
        "exit_code": code,
    }


def summary(answers: Sequence[Answer]) -> dict[str, Any]:
    """sent = answered + rejected + lost + others, and how long each took."""
    by = {"answered": 200, "rejected": 503, "lost": LOST}
    statuses = Counter(answer.status for answer in answers)
    counts = {name: statuses[status] for name, status in by.items()}
    shown: dict[str, Any] = {
        "sent": len(answers),
        **counts,
        "others": len(answers) - sum(counts.values()),
    }
    for name in ("answered", "rejected"):
        times = sorted(1000 * answer.seconds for answer in answers if answer.status == by[name])
        if len(times) > 1:
            cuts = quantiles(times, n=100, method="inclusive")
            shown[f"{name}_ms"] = {
                "p50": round(cuts[49], 1),
                "p99": round(cuts[98], 1),
                "max": round(times[-1], 1),
            }
    return shown


def _statuses(answers: Sequence[Answer]) -> dict[str, int]:
    names = ("lost" if answer.status == LOST else str(answer.status) for answer in answers)
    return dict(Counter(names))


def _title(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [""])[0]
    except psutil.Error:
        return ""
