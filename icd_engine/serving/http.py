"""What the service's routes do: OpenAI's image edits, kept inversions, models, health and metrics."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from cachetools import TTLCache
from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from icd_engine.serving import asked, forms
from icd_engine.serving.captions import Captioner
from icd_engine.serving.events import HEADERS, MEDIA_TYPE, events
from icd_engine.serving.gate import Metrics, request_id
from icd_engine.serving.jobs import (
    EditJob,
    EditKeptJob,
    InvertJob,
    Job,
    Kept,
    Pictures,
    Preview,
    Reply,
)
from icd_engine.serving.limits import (
    INVALID,
    NOT_READY,
    UNKNOWN_INVERSION,
    UNKNOWN_MODEL,
    ApiError,
    Limits,
)
from icd_engine.serving.offer import Offer
from icd_engine.serving.schemas import InversionInfo, Model, Models, State

WITHOUT = "the picture was inverted without a source prompt: give source_prompt for a better edit"
UNANSWERED = f"the captioner did not answer: {WITHOUT}"


@dataclass(frozen=True)
class Backend:
    """What the routes hand jobs to. run and stream raise ApiError; stream ends with a Reply."""

    run: Callable[[Job], Awaitable[Reply]]
    stream: Callable[[EditJob], AsyncIterator[Preview | Reply]]
    ready: Callable[[], Awaitable[bool]]


@dataclass(frozen=True)
class Entry:
    """An inversion and the file it was made of."""

    kept: Kept
    image: bytes


class Routes:
    """What each route does."""

    def __init__(self, backend: Backend, limits: Limits, offer: Offer, metrics: Metrics):
        self._backend = backend
        self._limits = limits
        self._offer = offer
        self._metrics = metrics
        self._captioner = None if offer.captioner is None else Captioner(offer)
        self._model = Model(id=offer.model, created=int(time.time()))
        self._inversions: TTLCache[str, Entry] = TTLCache(
            limits.inversions, limits.inversion_seconds
        )

    async def edit(
        self,
        request: Request,
        image: forms.Image,
        prompt: forms.Prompt,
        settings: forms.Settings,
        asked: asked.AskedFields,
        source_prompt: forms.MaybeSourcePrompt = None,
        n: forms.Count = 1,
        seed: forms.Seed = None,
        size: forms.Size = "auto",
        model: forms.Unused = None,
        user: forms.Unused = None,
        safety_identifier: forms.Unused = None,
    ) -> Response:
        """Edits a picture by text."""
        how, steps = asked
        if steps not in (None, self._offer.steps):
            text = f"num_inference_steps: this model takes {self._offer.steps}, not {steps}"
            raise ApiError(INVALID, text, "num_inference_steps")
        if how.previews is not None and n > 1:
            raise ApiError(INVALID, f"n: a stream is of one picture, not {n}", "n")
        chosen = settings if seed is None else {**settings, "seed": seed}
        if how.opaque:
            chosen = {"keep_alpha": False, **chosen}
        job = EditJob(
            image=await image.read(),
            source=source_prompt,
            target=prompt,
            settings=chosen,
            size=forms.size(size),
            count=n,
            written=how.written,
            previews=how.previews or 0,
        )
        found = {}
        if source_prompt is None:
            job = await self._with_source(job)
            found = {"source_prompt": job.source}
        if how.previews is None:
            return await self._pictures(job, found)
        return await self._stream(job, found, request_id(request.scope))

    async def invert(
        self,
        image: forms.Image,
        source_prompt: forms.SourcePrompt,
        seed: forms.Seed = None,
        size: forms.Size = "auto",
    ) -> InversionInfo:
        """Keeps a picture encoded: its edits then cost the half."""
        data = await image.read()
        settings = {} if seed is None else {"seed": seed}
        job = InvertJob(image=data, source=source_prompt, settings=settings, size=forms.size(size))
        kept = (await self._done(job)).value
        key = f"inv_{secrets.token_urlsafe(16)}"
        now = int(time.time())
        assert isinstance(kept, Kept)
        self._inversions[key] = Entry(kept, data)
        self._metrics.inversions.set(len(self._inversions))
        return InversionInfo(
            id=key,
            created=now,
            expires_at=now + int(self._limits.inversion_seconds),
            source_prompt=kept.source,
            seed=kept.seed,
            size="{}x{}".format(*kept.picture_size),
        )

    async def edit_kept(
        self,
        inversion_id: str,
        prompt: forms.Prompt,
        settings: forms.Settings,
        response_format: forms.Format = "b64_json",
        user: forms.Unused = None,
    ) -> Response:
        """Edits a kept picture."""
        entry = self._inversions.get(inversion_id)
        self._metrics.inversions.set(len(self._inversions))
        if entry is None:
            raise ApiError(UNKNOWN_INVERSION, param="inversion_id")
        job = EditKeptJob(
            key=inversion_id, kept=entry.kept, image=entry.image, target=prompt, settings=settings
        )
        return await self._pictures(job, {})

    async def models(self) -> Models:
        """The one model of this service."""
        return Models(data=[self._model])

    async def model(self, model: str) -> Model:
        """The model of this service, by its name."""
        if model != self._model.id:
            raise ApiError(UNKNOWN_MODEL, param="model")
        return self._model

    async def health(self) -> State:
        """That the service runs."""
        return State(status="ok")

    async def ready(self) -> State:
        """Whether the model is loaded and warm."""
        if not await self._backend.ready():
            raise ApiError(NOT_READY)
        return State(status="ready")

    async def metrics(self) -> Response:
        """Counters and times, in Prometheus' text format."""
        return Response(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)

    # --- what they share --------------------------------------------------------------------------

    async def _with_source(self, job: EditJob) -> EditJob:
        """The job with the operator's source prompt, a captioner's, or none. Raises ApiError."""
        if self._offer.source_prompt is not None:
            return replace(job, source=self._offer.source_prompt)
        if self._captioner is None:
            return replace(job, told=(WITHOUT,))
        caption = await self._captioner.caption(job.image, self._limits.pixels)
        return replace(job, source=caption, told=() if caption else (UNANSWERED,))

    async def _pictures(self, job: EditJob | EditKeptJob, about: dict[str, Any]) -> Response:
        made = (await self._done(job)).value
        assert isinstance(made, Pictures)
        pairs = zip(made.files, made.settings, strict=True)
        data = [{"b64_json": file, "settings": chosen} for file, chosen in pairs]
        # Not through the model: files are large
        return JSONResponse({"created": int(time.time()), "data": data, **_how(job, made), **about})

    async def _stream(self, job: EditJob, about: dict[str, Any], request: str) -> Response:
        """The first event is waited for: what is refused has a status of its own."""
        done = self._backend.stream(job)
        first = await anext(done)

        async def counted() -> AsyncIterator[Preview | Reply]:
            async for one in done:
                if isinstance(one, Reply):
                    self._count(one)
                yield one

        own = {"output_format": job.written.format}
        if isinstance(first, Reply):
            self._count(first)
        return StreamingResponse(
            events(first, counted(), own, about, request), media_type=MEDIA_TYPE, headers=HEADERS
        )

    async def _done(self, job: Job) -> Reply:
        reply = await self._backend.run(job)
        self._count(reply)
        return reply

    def _count(self, reply: Reply) -> None:
        self._metrics.batch.observe(reply.batch)
        self._metrics.worker.set(reply.memory)
        if isinstance(reply.value, Pictures):
            self._metrics.pictures.inc(len(reply.value.files))


def _how(job: EditJob | EditKeptJob, made: Pictures) -> dict[str, Any]:
    """How pictures are sent, in OpenAI's words, and what their client is told."""
    about: dict[str, Any] = {
        "size": "{}x{}".format(*made.size),
        "quality": "high",
        "background": "opaque" if made.opaque else "transparent",
        "output_format": job.written.format,
    }
    return about | ({"warnings": list(made.told)} if made.told else {})
