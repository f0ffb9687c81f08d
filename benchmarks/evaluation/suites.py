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
    """One picture and its edit. picture() gives uint8 [H, W, 3]; truth: the exact edited picture, where it is known;
    mask: true where the edit may change something; words: what the edited picture should show, by kind."""

    name: str
    kind: str
    source: str
    target: str
    picture: Callable[[], np.ndarray] = field(repr=False)
    truth: np.ndarray | None = field(default=None, repr=False)
    mask: np.ndarray | None = field(default=None, repr=False)
    words: dict[str, str] | None = None


def tiny(count: int, seed: int) -> list[Item]:
    """Freshly drawn scenes of the embedded model's world: colour, background and shape edits in turn."""
    from training import world

    def item(i: int, pair: world.Pair) -> Item:
        words = world.parse_caption(pair.target)
        return Item(
            f"{seed}-{i:04d}", pair.kind, pair.source, pair.target, lambda: pair.picture, pair.truth, pair.mask, words
        )

    return [item(i, pair) for i, pair in enumerate(world.sample_pairs(count, seed))]


def judged() -> Callable[[np.ndarray, Item], dict[str, float]]:
    """Whether a judge that has only seen true pictures names the word that was to change, and all the others."""
    from training import tiny_judge
    from training.tiny_vae import to_pictures

    judge = tiny_judge.load()

    def success(edited: np.ndarray, item: Item) -> dict[str, float]:
        seen, wanted = judge.words(to_pictures(np.array(edited[None])))[0], item.words or {}
        others = [seen[kind] == word for kind, word in wanted.items() if kind != item.kind]
        return {"edit_success": float(seen[item.kind] == wanted[item.kind]), "others_kept": float(all(others))}

    return success


def pairs(path: Path) -> list[Item]:
    """A CSV of picture, source, target (and kind, if there): paths are relative to the file. SettingsError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"{path} is not a readable CSV file: {error}") from None
    for i, row in enumerate(rows, start=2):
        for name in ("picture", "source", "target"):
            if not row.get(name):
                raise SettingsError(f"{path}, line {i}: no {name} (needed are picture, source, target)")
    return [
        Item(f"{i:04d}", row.get("kind") or "pair", row["source"], row["target"], _reader(path.parent / row["picture"]))
        for i, row in enumerate(rows)
    ]


def pie(folder: Path) -> list[Item]:
    """PIE-Bench (Ju et al., arXiv 2310.01506): mapping_file.json and annotation_images/. SettingsError.

    Words in square brackets are marked in the prompts: the brackets go, the words stay.
    """
    file = folder / "mapping_file.json"
    try:
        entries: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        return [_pie_item(folder, name, entry) for name, entry in entries.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"{file} is not PIE-Bench's mapping file: {error}") from None


def _pie_item(folder: Path, name: str, entry: dict[str, Any]) -> Item:
    source, target = (re.sub(r"[\[\]]", "", entry[key]) for key in ("original_prompt", "editing_prompt"))
    kind = PIE_TYPES.get(str(entry["editing_type_id"]), str(entry["editing_type_id"]))
    image = folder / "annotation_images" / entry["image_path"]
    return Item(name, kind, source, target, _reader(image), mask=pie_mask(entry["mask"]))


def pie_mask(runs: Sequence[int], side: int = PIE_SIDE) -> np.ndarray:
    """Flat pairs of start and length, row by row, as bool [side, side]. The outermost pixels count as masked: the
    annotations leave gaps there."""
    flat = np.zeros(side * side, dtype=bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        if not 0 <= start <= start + length <= flat.size:
            raise ValueError(f"a mask run of {length} from {start} leaves the picture")
        flat[start : start + length] = True
    mask = flat.reshape(side, side)
    mask[[0, -1], :] = mask[:, [0, -1]] = True
    return mask


def _reader(path: Path) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        try:
            return np.asarray(load_image(path))
        except IcdError as error:
            raise ImageError(f"{path}: {error}") from None

    return read
