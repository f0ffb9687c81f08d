"""Pictures and their exact edits: drawn, compared, and written to a folder."""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from training.world.drawing import draw_batch
from training.world.scenes import Scene, check_kinds, sample_edit
from training.world.shapes import Array

CHANGE_THRESHOLD = 8
DILATION = 3


@dataclass(frozen=True)
class Pair:
    """A picture and its exact edit, uint8 [128, 128, 3]; their mask, bool [128, 128]; the kind of
    word changed."""

    picture: Array
    truth: Array
    mask: Array
    source: str
    target: str
    kind: str


def change_mask(picture: Array, truth: Array) -> Array:
    """bool [h, w]: pixels of two uint8 pictures that differ by more than noise, grown by DILATION
    px to every side."""
    changed = np.abs(picture.astype(np.int16) - truth).max(-1) > CHANGE_THRESHOLD
    for axis in (0, 1):
        padding = [(DILATION, DILATION) if axis == a else (0, 0) for a in (0, 1)]
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(changed, padding), 2 * DILATION + 1, axis
        )
        changed = windows.max(-1)
    return changed


def sample_pairs(
    n: int, seed: int, kinds: Sequence[str] = ("color", "background", "shape")
) -> list[Pair]:
    """n random edits, the kinds in turn; equal arguments give equal pairs.

    Raises ValueError for an unknown kind.
    """
    check_kinds(kinds)
    rng = np.random.default_rng(seed)
    chosen = [kinds[i % len(kinds)] for i in range(n)]
    return [pair_of(*sample_edit(rng, kind), kind) for kind in chosen]


def pair_of(scene: Scene, edited: Scene, kind: str) -> Pair:
    """Both pictures and what differs."""
    picture, truth = draw_batch([scene, edited])
    return Pair(picture, truth, change_mask(picture, truth), scene.caption, edited.caption, kind)


def write_pairs(pairs: Iterable[Pair], folder: Path) -> Path:
    """Writes PNG files, then folder/pairs.json: [{picture, truth, mask, source, target, kind},
    ...], paths relative."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for i, pair in enumerate(pairs):
        files = {name: f"{i:04d}_{name}.png" for name in ("picture", "truth", "mask")}
        for name, file in files.items():
            Image.fromarray(getattr(pair, name)).convert("L" if name == "mask" else "RGB").save(
                folder / file
            )
        entries.append({**files, "source": pair.source, "target": pair.target, "kind": pair.kind})
    path = folder / "pairs.json"
    path.write_text(json.dumps(entries, indent=1) + "\n")
    return path


def command_line(
    module: str, description: str, pairs: int = 40, seed: int = 7
) -> argparse.ArgumentParser:
    """The parser of a program that edits pairs by a model: --pairs, --seed and --model."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--pairs", type=int, default=pairs)
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--model", default="tiny")
    return parser
