"""Latents as edits leave them, each beside the picture of the world it comes nearest to.

The decoder learns from them what to make of latents that no picture was encoded to. The true edit
will not do as their picture: where a new shape lies a few pixels off, it would teach to blur.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from icd_engine.errors import SettingsError
from icd_engine.images import psnr
from icd_engine.results import EditRequest
from icd_engine.settings import EditSettings
from training.world.drawing import draw
from training.world.pairs import change_mask
from training.world.placement import fit
from training.world.scenes import COLOR_JITTER, Scene, sample_edit

Array = np.ndarray

EDITS = 192
SHARD = 48
SEED = 31
KINDS = ("color", "background", "shape")
SETTINGS = (
    EditSettings(cross_replace=0.4, self_replace=0.75),
    EditSettings(cross_replace=0.4, self_replace=0.5),
    EditSettings(cross_replace=0.2, self_replace=0.5),
)
# Below this the edit is no picture of the world, dB
NEAR = 23.0


class Editor(Protocol):
    """What makes edits: the engine."""

    def edit_many(self, requests: Sequence[EditRequest]) -> Sequence[Any]:
        """Results with `latents` [1, 4, h, w] and `image`."""
        ...


def make_edits(folder: Path, editor: Editor, count: int = EDITS) -> None:
    """Writes the cache: of `count` edits of random scenes those that are near a picture of the
    world. Blocks that are there are not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, count, SHARD):
        path = folder / f"edits-{first // SHARD:05d}.safetensors"
        if not path.exists():
            _write(path, editor, np.random.default_rng([SEED, first]), min(SHARD, count - first))


def _write(path: Path, editor: Editor, rng: np.random.Generator, count: int) -> None:
    edits = [sample_edit(rng, KINDS[i % len(KINDS)]) for i in range(count)]
    requests = [
        EditRequest(
            draw(scene),
            scene.caption,
            edited.caption,
            replace(SETTINGS[rng.integers(len(SETTINGS))], seed=i),
        )
        for i, (scene, edited) in enumerate(edits)
    ]
    latents = []
    pictures = []
    for result, (_, edited) in zip(editor.edit_many(requests), edits, strict=True):
        found = np.asarray(result.image)
        near = draw(nearest(found, edited))
        if psnr(near, found) >= NEAR:
            latents.append(torch.as_tensor(result.latents[0]))
            pictures.append(torch.from_numpy(near))
    values = {
        "latents": torch.stack(latents) if latents else torch.zeros(0, 4, 16, 16),
        "pictures": torch.stack(pictures) if pictures else torch.zeros(0, 128, 128, 3).byte(),
    }
    temporary = path.with_suffix(f".tmp{os.getpid()}")
    save_file(values, temporary)
    os.replace(temporary, path)


def nearest(picture: Array, scene: Scene) -> Scene:
    """The scene in the colours and at the place that a picture gives it."""
    scene = recoloured(picture, scene)
    return recoloured(picture, fit(picture, scene).of(scene))


def recoloured(picture: Array, scene: Scene) -> Scene:
    """The scene with the picture's colours, as far as they are ones that its words may mean."""
    drawn = draw(scene)
    others = (draw(scene.edited("color", word)) for word in scene.alternatives("color"))
    background = ~np.any([change_mask(drawn, other) for other in others], axis=0)
    off = picture.astype(np.float64) - drawn
    return replace(
        scene,
        color_jitter=_moved(scene.color_jitter, off[_inside(scene)]),
        background_jitter=_moved(scene.background_jitter, off[background]),
    )


def _inside(scene: Scene) -> Array:
    """bool [128, 128]: the pixels that the object covers whole; equal whatever the background."""
    first, second = scene.alternatives("background")[:2]
    return (
        draw(scene.edited("background", first)) == draw(scene.edited("background", second))
    ).all(axis=-1)


def _moved(jitter: tuple[float, float, float], off: Array) -> tuple[float, float, float]:
    """The jitter with the middle of these deviations [N, 3] added."""
    moved = np.clip(np.add(jitter, np.median(off, axis=0)), -COLOR_JITTER, COLOR_JITTER).tolist()
    return (moved[0], moved[1], moved[2])


class EditPool:
    """The cached edits in memory. SettingsError where there are none."""

    def __init__(self, folder: Path):
        shards = [load_file(path) for path in sorted(folder.glob("edits-*.safetensors"))]
        if not any(len(shard["latents"]) for shard in shards):
            raise SettingsError(
                f"{folder} holds no edits: run `python -m training.tiny edits` first"
            )
        self.latents = torch.cat([shard["latents"] for shard in shards])
        self.pictures = torch.cat([shard["pictures"] for shard in shards])

    def __len__(self) -> int:
        return len(self.latents)

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Array]:
        """Scaled latents [count, 4, 16, 16] and uint8 pictures [count, 128, 128, 3]."""
        rows = torch.from_numpy(rng.integers(0, len(self), count))
        return self.latents[rows].float(), self.pictures[rows].numpy()
