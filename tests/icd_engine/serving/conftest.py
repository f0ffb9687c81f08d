"""The service in two ways: its routes in this process with a stand-in for the replicas, and `icd
serve` itself."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from benchmarks.load import Service
    from icd_engine.serving.jobs import Job

SOURCE, TARGET = "a cat sits on the mat", "a dog sits on the mat"
FORM = {"source_prompt": SOURCE, "prompt": TARGET}
EDITS, INVERSIONS = "/v1/images/edits", "/v1/inversions"


def png(width: int = 64, height: int = 64, mode: str = "RGB", seed: int = 0) -> bytes:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(
        0, 256, (height, width, *channels), dtype=np.uint8
    )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@dataclass
class StandIn:
    """What the routes are given in place of replicas: it keeps the jobs, and answers as it is
    told."""

    answer: Callable[[Job], Any] | None = None
    jobs: list[Job] = field(default_factory=list)
    is_ready: bool = True

    async def run(self, job: Job) -> Any:
        from icd_engine.serving.jobs import InvertJob, Kept, Pictures, Reply

        self.jobs.append(job)
        if self.answer is not None:
            answer = self.answer(job)
            if asyncio.iscoroutine(answer):
                await answer
        kept = Kept(
            latents=np.zeros((1, 4, 8, 8)),
            source=SOURCE,
            seed=3,
            size=(64, 64),
            picture_size=(80, 60),
        )
        return Reply(
            kept
            if isinstance(job, InvertJob)
            else Pictures(["AAAA"], [{"seed": 3}], (80, 60), True, job.told),
            batch=2,
            memory=1000,
        )

    async def stream(self, job: Job) -> AsyncIterator[Any]:
        """A preview for each that is asked for, and the answer of `run`."""
        from icd_engine.serving.jobs import Preview

        for number in range(job.previews):
            yield Preview(number, "BBBB", (80, 60))
        yield await self.run(job)

    async def ready(self) -> bool:
        return self.is_ready


@dataclass
class Application:
    """The routes, the stand-in behind them and the room in front of them."""

    app: Any
    replicas: StandIn
    room: Any
    metrics: Any

    @property
    def client(self) -> Any:
        from starlette.testclient import TestClient

        return TestClient(self.app, headers={"X-Request-Id": "the-id"})


@pytest.fixture
def application() -> Callable[..., Application]:
    """Makes an application of limits, a token, and what an operator offers."""
    from icd_engine.serving.app import application
    from icd_engine.serving.gate import Metrics, Room
    from icd_engine.serving.http import Backend
    from icd_engine.serving.limits import Limits
    from icd_engine.serving.offer import Offer

    def make(
        token: str | None = None, offer: dict[str, Any] | None = None, **limits: Any
    ) -> Application:
        chosen, metrics, replicas = Limits(**limits), Metrics(), StandIn()
        room = Room(chosen.capacity, metrics.in_flight)
        backend = Backend(replicas.run, replicas.stream, replicas.ready)
        app = application(backend, chosen, token, room, metrics, Offer(**(offer or {})))
        return Application(app, replicas, room, metrics)

    return make


@pytest.fixture(scope="session")
def service(small_bundle) -> Iterator[Service]:
    """`icd serve` on the small bundle, one thread, one megapixel, 1 MiB: started once, some ten
    seconds."""
    pytest.importorskip("ray.serve")
    from benchmarks.load import Service

    options = [
        "--model",
        str(small_bundle),
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--runner",
        "eager",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # another number of threads may round in another way
        with Service(
            *options, "--max-body", "1", "--max-megapixels", "0.1", "--inversions", "2"
        ) as running:
            yield running
