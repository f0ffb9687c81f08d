"""What a replica does: jobs in, pictures out, by one engine. It knows neither HTTP nor Ray."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from cachetools import LRUCache
from PIL import Image

from icd_engine.engine import Engine
from icd_engine.errors import IcdError, SettingsError
from icd_engine.images import opaque, read_picture, to_size
from icd_engine.masks import read_mask
from icd_engine.placement import Placement
from icd_engine.results import EditRequest, EditResult, Inversion
from icd_engine.saving import image_bytes
from icd_engine.serving.holes import HOLE, without_hole
from icd_engine.serving.jobs import (
    PNG,
    EditJob,
    EditKeptJob,
    InvertJob,
    Job,
    Kept,
    Pictures,
    Preview,
    Size,
    Written,
)
from icd_engine.serving.limits import ApiError, Limits, too_many_pixels
from icd_engine.serving.previews import Previews
from icd_engine.together import edit_each

AREAS = 4  # `size` may have so many times the pixels that the model was made for


class JobEditor:
    """One engine and the jobs that it does together."""

    def __init__(self, model: str, placement: Placement, limits: Limits):
        self.engine = Engine.load(model, placement)
        self._limits = limits
        # The engine keeps the source branches of inversions edited last, and knows them as objects.
        self._inversions: LRUCache[str, Inversion] = LRUCache(limits.inversions)

    def warm(self) -> None:
        """Waits for all that the first requests would wait for: compiled code, and graphs of every
        batch size."""
        picture = Image.new("RGB", self.engine.bundle.size, "gray")
        source = "a picture"
        target = "a photo"
        largest = self._limits.batch if self.engine.runner.warms_up else 1
        for power in range(largest.bit_length()):
            self.engine.edit_many([EditRequest(picture, source, target)] * 2**power)
        inversion = self.engine.invert(picture, source)
        for _ in range(2):  # the second without the source row
            inversion.edit(target)

    def read(self, job: Job) -> Job:
        """The job with its files read. Raises ApiError."""
        image = self._picture(job.image)
        settings = dict(job.settings)
        told = () if isinstance(job, InvertJob) else job.told
        own = isinstance(job, EditJob) and "mask" not in settings
        if own and not settings.get("keep_alpha"):
            image, hole = without_hole(job.image, image)
            if hole is not None:
                settings |= {"mask": hole, "keep_alpha": False}
                told = (*told, HOLE)
        elif "mask" in settings:
            # OpenAI's API has it so; masks without transparency are white where pictures may change
            settings.setdefault("mask_alpha", "hole")
            self._mask(settings["mask"], settings["mask_alpha"])
        if isinstance(job, EditJob | InvertJob) and job.size is not None:
            width, height = self.engine.bundle.size
            if job.size[0] * job.size[1] > AREAS * width * height:
                text = f"size has more than {AREAS} times the pixels that the model was made for: {width}x{height}"
                raise ApiError.of_input(SettingsError(text), "size")
        job = replace(job, image=image, settings=settings)
        if isinstance(job, InvertJob):
            return job
        return replace(job, told=(*told, *self._cut(job)))

    def run(self, jobs: Sequence[Job]) -> list[list[EditResult] | Kept | Exception]:
        """Results in the order of the jobs: edits of one size in shared passes, the others one by
        one."""
        done: dict[int, list[EditResult] | Kept | Exception] = {}
        for size in dict.fromkeys(job.size for job in jobs if isinstance(job, EditJob)):
            alike = {
                i: job
                for i, job in enumerate(jobs)
                if isinstance(job, EditJob) and job.size == size
            }
            done.update(zip(alike, self._edit(list(alike.values()), size), strict=True))
        for i, job in enumerate(jobs):
            if not isinstance(job, EditJob):
                done[i] = self._alone(job)
        return [done[i] for i in range(len(jobs))]

    def run_shown(self, job: Job, show: Callable[[Preview], Any]) -> list[EditResult]:
        """One edit by itself, bit for bit as without being shown. What `show` raises ends it."""
        assert isinstance(job, EditJob)
        (request,) = self._requests(job)
        settled = self.engine.model.settle(request.checked_settings())

        def made(number: int, picture: Image.Image) -> None:
            show(Preview(number, encoded(picture, job.written), picture.size))

        size = job.size or job.image.size
        sources = 0 if settled.anchor else 1  # an anchored picture's source rows have run before
        watcher = Previews(self.engine, sources, job.previews, size, made)
        return self.engine.edit_many([request], size=job.size, progress=watcher)

    def _cut(self, job: EditJob | EditKeptJob) -> list[str]:
        """What is told of prompts that are cut. ApiError for wrong ones."""
        source = job.source if isinstance(job, EditJob) else job.kept.source or None
        model = self.engine.model
        try:
            prompts = (model.source_tokens(source), model.tokens(job.target, "the target prompt"))
        except IcdError as error:
            raise ApiError.of_input(error, "prompt") from None
        return [one.cut_note for one in prompts if one.cut]

    def _edit(
        self, jobs: Sequence[EditJob], size: Size | None
    ) -> list[list[EditResult] | Exception]:
        results = iter(
            edit_each(
                self.engine, [request for job in jobs for request in self._requests(job)], size
            )
        )
        done: list[list[EditResult] | Exception] = []
        for job in jobs:
            made = [next(results) for _ in range(job.count)]
            error = next((one for one in made if isinstance(one, Exception)), None)
            done.append(error or [one for one in made if isinstance(one, EditResult)])
        return done

    def _requests(self, job: EditJob) -> list[EditRequest]:
        first = job.settings.get("seed", self.engine.default_settings.seed or 0)
        settings = [{**job.settings, "seed": first + i} for i in range(job.count)]
        return [EditRequest(job.image, job.source, job.target, chosen) for chosen in settings]

    def _alone(self, job: InvertJob | EditKeptJob) -> list[EditResult] | Kept | Exception:
        try:
            if isinstance(job, EditKeptJob):
                return [self._inversion(job).edit(job.target, **job.settings)]
            made = self.engine.invert(job.image, job.source, size=job.size, **job.settings)
        except Exception as error:
            return error
        about = {name: getattr(made, name) for name in ("source", "seed", "size", "picture_size")}
        host = self.engine.runner.host
        boundaries = made.boundaries and [np.asarray(host(own)) for own in made.boundaries]
        return Kept(latents=np.asarray(made.latents), boundaries=boundaries, **about)

    def _inversion(self, job: EditKeptJob) -> Inversion:
        found = self._inversions.get(job.key)
        if found is None:
            kept = job.kept
            rgb, alpha = opaque(job.image)
            picture = Image.fromarray(to_size(rgb, kept.picture_size)[0])
            picture.info = job.image.info
            alpha = alpha and alpha.resize(kept.picture_size, Image.Resampling.BICUBIC)
            tensor = self.engine.runner.tensor
            found = Inversion(
                self.engine,
                tensor(kept.latents),
                kept.source,
                kept.seed,
                kept.size,
                kept.picture_size,
                picture,
                alpha,
                given_size=job.image.size,
                boundaries=kept.boundaries and [tensor(own) for own in kept.boundaries],
                made_with=self.engine.fingerprint,
            )
            self._inversions[job.key] = found
        return found

    def _mask(self, data: bytes, alpha: str) -> None:
        try:
            self._check_pixels(read_mask(data, alpha).size, "mask")
        except IcdError as error:
            raise ApiError.of_input(error, "mask") from None

    def _picture(self, data: bytes) -> Image.Image:
        try:
            picture = read_picture(data)
            self._check_pixels(picture.width * picture.height, "picture")
        except IcdError as error:
            raise ApiError.of_input(error, "image") from None
        return picture

    def _check_pixels(self, pixels: int, what: str) -> None:
        if pixels > self._limits.pixels:
            raise too_many_pixels(what, self._limits.pixels)


def written(results: Sequence[EditResult], job: Job | None = None) -> Pictures:
    """Results as files, as the job has them."""
    how, told = (PNG, ()) if job is None or isinstance(job, InvertJob) else (job.written, job.told)
    files = [encoded(result.image, how) for result in results]
    settings = [result.settings.as_json() for result in results]
    first = results[0].image
    return Pictures(files, settings, first.size, first.mode == "RGB", told)


def encoded(picture: Image.Image, how: Written) -> str:
    """A file in base64, which says that a model made it."""
    data = image_bytes(picture, f"picture.{how.format}", quality=how.quality)
    return base64.b64encode(data).decode()
