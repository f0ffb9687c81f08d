"""What the service's front hands to replicas, and gets back: plain data that travels between processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from icd_engine.saving import QUALITY

Size = tuple[int, int]


class Written(NamedTuple):
    """How pictures are sent: a format of saving.SUFFIXES, and the quality of JPEG and WEBP, 1 to 100."""

    format: str = "png"
    quality: int = QUALITY


PNG = Written()


@dataclass(frozen=True, kw_only=True)
class EditJob:
    """One picture towards one target, `count` times, with seeds that follow each other.

    image: the file's bytes; once read, the picture. source: None, and it is inverted without one.
    written: how the files are. previews: how many are shown under way. told: what its client is to
    know of it.
    """

    image: Any
    source: str | None
    target: str
    settings: dict[str, Any]
    size: Size | None = None
    count: int = 1
    written: Written = PNG
    previews: int = 0
    told: tuple[str, ...] = ()


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
    written: Written = PNG
    told: tuple[str, ...] = ()


Job = EditJob | InvertJob | EditKeptJob


@dataclass(frozen=True)
class Pictures:
    """Files in base64, the settings of each, and what their client is told."""

    files: list[str] = field(repr=False)
    settings: list[dict[str, Any]]
    size: Size = (0, 0)  # of the first
    opaque: bool = True
    told: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preview:
    """A picture of an edit under way: a file in base64."""

    number: int
    file: str = field(repr=False)
    size: Size


@dataclass(frozen=True)
class Reply:
    """What became of a job, how many were done together, and the resident memory of the replica,
    bytes."""

    value: Pictures | Kept
    batch: int
    memory: int
