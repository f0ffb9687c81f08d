"""The service's two parts on Ray Serve: a front that talks HTTP, and replicas that own an engine
each."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import psutil
import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve import Application
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from icd_engine.errors import IcdError
from icd_engine.placement import Placement
from icd_engine.serving.app import application
from icd_engine.serving.gate import Metrics, Room
from icd_engine.serving.http import Backend
from icd_engine.serving.jobs import EditJob, Job, Kept, Preview, Reply
from icd_engine.serving.limits import INTERNAL, LOST, ApiError, Limits
from icd_engine.serving.offer import Offer
from icd_engine.serving.replica import JobEditor, written

NAME = "icd"
BATCH_WAIT = 0.005  # seconds for requests that arrive together
GIVES_WAY = (
    10  # of a replica that computes on the processors which the front needs, on nice's scale
)
STARTS = 3  # of a replica, before it is given up
LOGGING = LoggingConfig(log_level="WARNING", enable_access_log=False)

logger = logging.getLogger("ray.serve")


@serve.deployment(
    name="Replica",
    health_check_period_s=1,
    max_constructor_retry_count=STARTS,
    logging_config=LOGGING,
)
class Replica:
    """An engine, and the queue in front of it."""

    def __init__(self, model: str, placement: Placement, limits: Limits):
        self._edits = ThreadPoolExecutor(1, "edits", initializer=_give_way)
        self._editor = self._edits.submit(_warmed, model, placement, limits).result()
        self._process = psutil.Process()
        self._free = asyncio.Event()
        self._free.set()
        self._engine = asyncio.Lock()
        self._together.set_max_batch_size(limits.batch)  # pyright: ignore[reportAttributeAccessIssue]  # serve.batch's

    async def run(self, job: Job) -> Reply | ApiError:
        """One job, with those that wait beside it.

        Refusals are values: Serve would wrap a raised one.
        """
        try:
            job = await asyncio.to_thread(self._editor.read, job)
            # Serve closes a batch BATCH_WAIT after its first request, even while another batch
            # runs: requests would line up as batches of one, and be done so. What waits here for
            # the engine enters together.
            await self._free.wait()
            done, batch = await self._together(job)
            if isinstance(done, Exception):
                raise done
            value = done if isinstance(done, Kept) else await asyncio.to_thread(written, done, job)
            return Reply(value, batch, self._process.memory_info().rss)
        except Exception as error:
            return _as_value(error)

    async def stream(self, job: EditJob) -> AsyncIterator[Preview | Reply | ApiError]:
        """One job by itself: its previews as they are made, and what `run` would answer."""
        stopped = threading.Event()
        try:
            read = await asyncio.to_thread(self._editor.read, job)
            done = []
            async with self._alone():
                async for one in self._shown(read, stopped):
                    if isinstance(one, Preview):
                        yield one
                    else:
                        done = one
            value = await asyncio.to_thread(written, done, read)
            yield Reply(value, 1, self._process.memory_info().rss)
        except Exception as error:
            yield _as_value(error)
        finally:
            stopped.set()

    async def _shown(self, job: Job, stopped: threading.Event) -> AsyncIterator[Any]:
        """Previews, and at last the results. Whoever stops listening ends the edit at its next hop."""
        loop = asyncio.get_running_loop()
        made: asyncio.Queue[Any] = asyncio.Queue()

        def show(preview: Preview) -> None:
            if stopped.is_set():
                raise RuntimeError("nobody listens")
            loop.call_soon_threadsafe(made.put_nowait, preview)

        running = loop.run_in_executor(self._edits, self._editor.run_shown, job, show)
        running.add_done_callback(lambda _: made.put_nowait(None))
        try:
            while (preview := await made.get()) is not None:
                yield preview
            yield await running
        finally:
            stopped.set()
            await asyncio.wait([running])  # the engine is free when it ends

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """The engine, which has one pass at a time."""
        async with self._engine:
            self._free.clear()
            try:
                yield
            finally:
                self._free.set()

    @serve.batch(batch_wait_timeout_s=BATCH_WAIT)
    async def _together(self, jobs: list[Job]) -> list[tuple[Any, int]]:
        loop = asyncio.get_running_loop()
        async with self._alone():
            done = await loop.run_in_executor(self._edits, self._editor.run, jobs)
        return [(one, len(jobs)) for one in done]


@serve.deployment(
    name="Front",
    max_ongoing_requests=1000,
    ray_actor_options={"num_cpus": 0},
    logging_config=LOGGING,
)
@serve.ingress()
class Front:
    """Reads, refuses and counts requests, keeps inversions, and hands jobs to the replicas."""

    def __init__(self, replicas: DeploymentHandle, limits: Limits, token: str | None, offer: Offer):
        self._replicas = replicas
        self._limits = limits
        self._token = token
        self._offer = offer
        self._metrics = Metrics()
        self._room = Room(limits.capacity, self._metrics.in_flight)

    def __serve_build_asgi_app__(self) -> FastAPI:
        backend = Backend(self._run, self._stream, self._ready)
        return application(
            backend, self._limits, self._token, self._room, self._metrics, self._offer
        )

    async def drain(self) -> None:
        """Refuses what comes, and returns when all that came is answered."""
        await self._room.empty()

    async def _run(self, job: Job) -> Reply:
        response = self._replicas.run.remote(job)
        try:
            reply = await response
        except asyncio.CancelledError:  # the client is gone, or the time over
            response.cancel()
            raise
        except (RayActorError, ReplicaUnavailableError, DeploymentUnavailableError):
            raise ApiError(LOST) from None
        if isinstance(reply, ApiError):
            raise reply
        return reply

    async def _stream(self, job: EditJob) -> AsyncIterator[Preview | Reply]:
        response: Any = self._replicas.options(stream=True).stream.remote(job)
        try:
            async for one in response:
                if isinstance(one, ApiError):
                    raise one
                yield one
        except (asyncio.CancelledError, GeneratorExit):  # the client is gone, or the time over
            response.cancel()
            raise
        except (RayActorError, ReplicaUnavailableError, DeploymentUnavailableError):
            raise ApiError(LOST) from None

    async def _ready(self) -> bool:
        try:
            return not self._room.closing and await asyncio.to_thread(warm)
        except RayError:  # whoever asked went away, or the controller has too much to do
            return False


def parts(
    resources: dict[str, Any],
    model: str,
    placement: Placement,
    limits: Limits,
    token: str | None,
    offer: Offer,
) -> Application:
    """Both parts, bound. resources: of one replica."""
    replica = Replica.options(
        num_replicas=limits.replicas,
        max_ongoing_requests=limits.held,
        ray_actor_options=resources,
    )
    return Front.bind(replica.bind(model, placement, limits), limits, token, offer)


def _warmed(model: str, placement: Placement, limits: Limits) -> JobEditor:
    editor = JobEditor(model, placement, limits)
    editor.warm()
    return editor


def _give_way() -> None:
    """This thread, and those that it starts, wait for whoever answers requests on the same processors.
    With a GPU they have little to do there, and it would wait for them."""
    if not ray.get_gpu_ids() and hasattr(os, "nice"):
        os.nice(GIVES_WAY)


def _as_value(error: Exception) -> ApiError:
    """A refusal as a value: Serve would wrap a raised one."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, IcdError):
        return ApiError.of_input(error)
    logger.error("a job failed", exc_info=error)
    return ApiError(INTERNAL)


def warm() -> bool:
    """Whether a replica has loaded its model and made its first edits."""
    states = serve.status().applications[NAME].deployments["Replica"].replica_states
    return any(state == "RUNNING" and count > 0 for state, count in states.items())
