"""What a replica does: jobs in, pictures out, by one engine. It knows neither HTTP nor Ray."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from cachetools import LRUCache
from PIL import Image

from icd_engine.engine import Engine
from icd_engine.errors import IcdError, ImageError, SettingsError
from icd_engine.images import opaque, read_picture, to_size
from icd_engine.masks import read_mask
from icd_engine.placement import Placement
from icd_engine.results import EditRequest, EditResult, Inversion
from icd_engine.saving import image_bytes
from icd_engine.serving.limits import ApiError, Limits
from icd_engine.together import edit_each

AREAS = 4  # `size` may have so many times the pixels that the model was made for
Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class EditJob:
    """One picture towards one target, `count` times, with seeds that follow each other."""

    image: Any  # the file's bytes; once read, the picture
    source: str
    target: str
    settings: dict[str, Any]
    size: Size | None = None
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class InvertJob:
    """One picture to keep."""

    image: Any
    source: str
    settings: dict[str, Any]  # the seed
    size: Size | None = None


@dataclass(frozen=True, kw_only=True)
class Kept:
    """An inversion as data: it outlives the replica that made it, and every replica can edit it."""

    latents: np.ndarray = field(repr=False)  # [1, 4, h, w]
    source: str
    seed: int
    size: Size
    picture_size: Size
    # As of Inversion, in the same shape
    boundaries: list[np.ndarray] | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class EditKeptJob:
    """A kept picture towards one target. image: its file, whose pixels `paste_back` needs."""

    key: str
    kept: Kept
    image: Any
    target: str
    settings: dict[str, Any]


Job = EditJob | InvertJob | EditKeptJob


@dataclass(frozen=True)
class Pictures:
    """PNG files in base64, and the settings of each."""

    files: list[str] = field(repr=False)
    settings: list[dict[str, Any]]


@dataclass(frozen=True)
class Reply:
    """What became of a job, how many were done together, and the resident memory of the replica,
    bytes."""

    value: Pictures | Kept
    batch: int
    memory: int


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
        if "mask" in settings:
            # OpenAI's API has it so; masks without transparency are white where pictures may change
            settings.setdefault("mask_alpha", "hole")
            self._mask(settings["mask"], settings["mask_alpha"])
        if isinstance(job, EditJob | InvertJob) and job.size is not None:
            width, height = self.engine.bundle.size
            if job.size[0] * job.size[1] > AREAS * width * height:
                text = f"size has more than {AREAS} times the pixels that the model was made for: {width}x{height}"
                raise ApiError.of_input(SettingsError(text), "size")
        return replace(job, image=image, settings=settings)

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
            raise ImageError(f"the {what} has more than {self._limits.pixels / 1e6:g} megapixels")


def written(results: Sequence[EditResult]) -> Pictures:
    """Results as files; each says that a model made it."""
    files = [base64.b64encode(image_bytes(result.image)).decode() for result in results]
    return Pictures(files, [result.settings.as_json() for result in results])
