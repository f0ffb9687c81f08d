"""Captioned pictures to train on: a folder with a CSV or JSONL file, WebDataset shards, or the
procedural world."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from icd_engine.errors import IcdError, ImageError, SettingsError
from icd_engine.images import load_image
from training.world.drawing import draw
from training.world.scenes import sample_scene

WORLD = "world"
WORLD_SEED = 2_000_000  # far from the seeds that draw evaluation pictures
PICTURE_NAMES = ("picture", "image", "file_name", "path")
CAPTION_NAMES = ("caption", "text", "prompt")
SHARD_PICTURES = "jpg;jpeg;png;webp"


@dataclass(frozen=True)
class Captioned:
    """A picture not read yet, and its caption. read() gives an RGB picture or raises ImageError."""

    name: str
    caption: str
    read: Callable[[], Image.Image] = field(repr=False)


def open_source(source: str) -> Iterator[Captioned]:
    """Every captioned picture of a source, in a fixed order, one at a time.

    source: `world:COUNT`; a CSV or JSONL file of picture and caption, paths relative to it (a
    column named `picture`, `image`, `file_name` or `path`, and one named `caption`, `text` or
    `prompt`); a folder with such a file called metadata.csv or metadata.jsonl, or with a .txt file
    beside each picture; one WebDataset shard or several (`shard-{000..009}.tar`). Raises
    SettingsError naming what is not there or not readable.
    """
    name, _, count = source.partition(":")
    if name == WORLD:
        if not count.isdecimal() or int(count) < 1:
            raise SettingsError(f"{source!r} must say how many scenes: world:40000")
        return _world(int(count))
    if source.endswith(".tar"):
        return _shards(source)
    path = Path(source)
    if path.is_dir():
        listed = next(
            (
                path / f"metadata{suffix}"
                for suffix in (".csv", ".jsonl")
                if (path / f"metadata{suffix}").is_file()
            ),
            None,
        )
        return _pairs_of_files(path) if listed is None else _listed(listed)
    if path.suffix in (".csv", ".jsonl") and path.is_file():
        return _listed(path)
    raise SettingsError(
        f"no pictures at {source!r}: give a folder, a CSV or JSONL file, .tar shards or world:COUNT"
    )


def _world(count: int) -> Iterator[Captioned]:
    for i in range(count):
        scene = sample_scene(np.random.default_rng([WORLD_SEED, i]))
        yield Captioned(
            f"world-{i:07d}", scene.caption, lambda scene=scene: Image.fromarray(draw(scene))
        )


def _listed(path: Path) -> Iterator[Captioned]:
    for number, row in _rows(path):
        picture = next((row[name] for name in PICTURE_NAMES if row.get(name)), None)
        caption = next((row[name] for name in CAPTION_NAMES if row.get(name) is not None), None)
        if not isinstance(picture, str) or not isinstance(caption, str):
            raise SettingsError(
                f"{path}, line {number}: needs a picture ({', '.join(PICTURE_NAMES)}) and a caption"
            )
        yield Captioned(picture, caption, _reader(path.parent / picture))


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            if path.suffix == ".csv":
                yield from enumerate(csv.DictReader(file), start=2)
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError(f"line {number} is not an object")
                    yield number, row
    except (OSError, ValueError, csv.Error) as error:
        raise SettingsError(f"{path} is not readable: {error}") from None


def _pairs_of_files(folder: Path) -> Iterator[Captioned]:
    texts = sorted(folder.rglob("*.txt"))
    if not texts:
        raise SettingsError(
            f"{folder} has neither metadata.csv, metadata.jsonl nor .txt captions beside its pictures"
        )
    for text in texts:
        pictures = [text.with_suffix(f".{suffix}") for suffix in SHARD_PICTURES.split(";")]
        picture = next((path for path in pictures if path.is_file()), pictures[0])
        yield Captioned(
            str(picture.relative_to(folder)),
            text.read_text(encoding="utf-8").strip(),
            _reader(picture),
        )


def _shards(source: str) -> Iterator[Captioned]:
    try:
        from webdataset.compat import WebDataset
    except ImportError:
        raise SettingsError(
            "WebDataset shards need the extra: pip install 'icd-engine[training]'"
        ) from None
    try:
        for sample in WebDataset(source, shardshuffle=False, empty_check=False):
            picture = next(
                (sample[suffix] for suffix in SHARD_PICTURES.split(";") if suffix in sample), b""
            )
            yield Captioned(
                sample["__key__"], _caption(sample), lambda picture=picture: load_image(picture)
            )
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{source} is not readable: {' '.join(str(error).split())[:200]}"
        ) from None


def _caption(sample: Mapping[str, bytes]) -> str:
    if "txt" in sample:
        return sample["txt"].decode("utf-8", "replace").strip()
    fields = json.loads(sample.get("json", b"{}"))
    return next((str(fields[name]) for name in CAPTION_NAMES if fields.get(name)), "")


def _reader(path: Path) -> Callable[[], Image.Image]:
    def read() -> Image.Image:
        try:
            return load_image(path)
        except IcdError as error:
            raise ImageError(f"{path}: {error}") from None

    return read


def square(picture: Image.Image, side: int) -> np.ndarray:
    """The middle of a picture, uint8 [side, side, 3]: its short side becomes `side`, the rest is
    cut."""
    width, height = picture.size
    scale = side / min(width, height)
    size = (max(side, round(width * scale)), max(side, round(height * scale)))
    shrunk = picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)
    left = (size[0] - side) // 2
    top = (size[1] - side) // 2
    return np.asarray(shrunk.crop((left, top, left + side, top + side)))
