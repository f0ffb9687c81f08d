"""Suites: what is edited, and what is known about how it should come out."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from icd_engine.errors import IcdError, ImageError, SettingsError
from icd_engine.images import load_image

PIE_SIDE = 512
PIE_TYPES = {
    "0": "random",
    "1": "change object",
    "2": "add object",
    "3": "delete object",
    "4": "change content",
    "5": "change pose",
    "6": "change color",
    "7": "change material",
    "8": "change background",
    "9": "change style",
}


@dataclass(frozen=True)
class Item:
    """One picture and its edit. read: gives uint8 [H, W, 3], None where a prompt is all there is;
    truth: the exact edited picture, where it is known; mask: true where the edit may change
    something; words: what the edited picture should show, by kind; instruction: what to do, for
    methods that take instructions."""

    name: str
    kind: str
    source: str
    target: str
    read: Callable[[], np.ndarray] | None = field(repr=False)
    truth: np.ndarray | None = field(default=None, repr=False)
    mask: np.ndarray | None = field(default=None, repr=False)
    words: dict[str, str] | None = None
    instruction: str | None = None

    def picture(self) -> np.ndarray:
        if self.read is None:
            raise ValueError(f"item {self.name} is a prompt and has no picture")
        return self.read()


@dataclass(frozen=True)
class Edited:
    """What a method made of an item, uint8 pictures of the item's size, and what it took."""

    edited: np.ndarray
    reconstruction: np.ndarray | None
    calls: int
    seconds: float


Metric = Callable[[Item, Edited], dict[str, float | None]]


def tiny(count: int, seed: int) -> list[Item]:
    """Freshly drawn scenes of the embedded model's world: colour, background and shape edits in
    turn."""
    from training.world.pairs import Pair, sample_pairs
    from training.world.scenes import parse_caption

    def item(i: int, pair: Pair) -> Item:
        words = parse_caption(pair.target)
        return Item(
            f"{seed}-{i:04d}",
            pair.kind,
            pair.source,
            pair.target,
            lambda: pair.picture,
            pair.truth,
            pair.mask,
            words,
        )

    return [item(i, pair) for i, pair in enumerate(sample_pairs(count, seed))]


def prompts(path: Path | None, count: int, seed: int) -> list[Item]:
    """Prompts to generate: one a line of a text file, the column `prompt` of a CSV, or captions of
    freshly drawn scenes of the world. SettingsError. Item i is named seed + i, the seed of its
    noise.
    """
    if path is not None:
        texts = (
            [row["prompt"] for row in _csv(path, ("prompt",))]
            if path.suffix.lower() == ".csv"
            else _lines(path)
        )
        return [
            Item(f"{seed + i}", "prompt", text, text, None) for i, text in enumerate(texts[:count])
        ]
    from training.world.scenes import parse_caption, sample_scene

    captions = [sample_scene(np.random.default_rng([seed, i])).caption for i in range(count)]
    words = [parse_caption(caption) for caption in captions]
    return [
        Item(f"{seed + i}", "scene", caption, caption, None, words=words[i])
        for i, caption in enumerate(captions)
    ]


def _lines(path: Path) -> list[str]:
    try:
        return [
            line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not a readable text file: {error}") from None


def judged() -> Metric:
    """What a judge that has only seen true pictures reads in them.

    Of an edit: whether the word that was to change is right, and all the others. Of a generated
    scene: the share of right words, and each kind of word alone.
    """
    from training.tiny.judge import read_judge
    from training.tiny.vae import to_pictures

    judge = read_judge()

    def success(item: Item, made: Edited) -> dict[str, float | None]:
        seen = judge.words(to_pictures(np.array(made.edited[None])))[0]
        wanted = item.words or {}
        right = {kind: float(seen[kind] == word) for kind, word in wanted.items()}
        if item.read is None:
            found: dict[str, float | None] = {
                f"{kind}_right": value for kind, value in right.items()
            }
            return {"prompt_success": float(np.mean(list(right.values())))} | found
        return {"edit_success": right.pop(item.kind), "others_kept": float(all(right.values()))}

    return success


def pairs(path: Path) -> list[Item]:
    """A CSV of picture, source, target (and kind and instruction, if there): paths are relative to
    the file.

    SettingsError.
    """
    return [
        Item(
            f"{i:04d}",
            row.get("kind") or "pair",
            row["source"],
            row["target"],
            _reader(path.parent / row["picture"]),
            instruction=row.get("instruction") or None,
        )
        for i, row in enumerate(_csv(path, ("picture", "source", "target")))
    ]


def _csv(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"{path} is not a readable CSV file: {error}") from None
    for i, row in enumerate(rows, start=2):
        for name in needed:
            if not row.get(name):
                raise SettingsError(f"{path}, line {i}: no {name} (needed: {', '.join(needed)})")
    return rows


def pie(folder: Path) -> list[Item]:
    """PIE-Bench (Ju et al., arXiv 2310.01506): mapping_file.json and annotation_images/.
    SettingsError.

    Words in square brackets are marked in the prompts: the brackets go, the words stay.
    """
    file = folder / "mapping_file.json"
    try:
        entries: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        return [_pie_item(folder, name, entry) for name, entry in entries.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"{file} is not PIE-Bench's mapping file: {error}") from None


def _pie_item(folder: Path, name: str, entry: dict[str, Any]) -> Item:
    source, target = (
        re.sub(r"[\[\]]", "", entry[key]) for key in ("original_prompt", "editing_prompt")
    )
    kind = PIE_TYPES.get(str(entry["editing_type_id"]), str(entry["editing_type_id"]))
    image = folder / "annotation_images" / entry["image_path"]
    mask = pie_mask(entry["mask"])
    instruction = entry.get("editing_instruction") or None
    return Item(name, kind, source, target, _reader(image), mask=mask, instruction=instruction)


def pie_mask(runs: Sequence[int], side: int = PIE_SIDE) -> np.ndarray:
    """Flat pairs of start and length, row by row, as bool [side, side]. As in the published code,
    runs end with the picture, and the outermost pixels count as masked: the annotations leave gaps
    there."""
    flat = np.zeros(side * side, dtype=bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        if not (0 <= start < flat.size and length >= 0):
            raise ValueError(f"a mask run of {length} from {start} is not in the picture")
        flat[start : start + length] = True
    mask = flat.reshape(side, side)
    mask[[0, -1], :] = mask[:, [0, -1]] = True
    return mask


def mask_at(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask of a picture of another size, (w, h)."""
    if mask.shape[::-1] == tuple(size):
        return mask
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _reader(path: Path) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        try:
            return np.asarray(load_image(path))
        except IcdError as error:
            raise ImageError(f"{path}: {error}") from None

    return read
