"""Where the new shape of an edit lies: `python -m training.world.placement --pairs 40 --seed 7 [--model
FOLDER]`.

The true edit is moved, resized and turned until it fits the edited picture best: that is what the
model did not carry over. Beside it stands what true edits would score that are drawn a known
distance off, so that one explains the other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from icd_engine import Engine
from training.world.drawing import draw
from training.world.pairs import Pair, command_line, pair_of
from training.world.quality import changed_share, run_edits
from training.world.scenes import SIZES, Scene, sample_edit
from training.world.shapes import Array

KIND = "shape"
# Steps of the search, px; a turn by as many times TURN degrees moves a rim about as far
STEPS = (2.0, 1.0, 0.5)
TURN = 3.0
OFFSETS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0)


class ShapePlace(NamedTuple):
    """Of a drawn shape against where it should be: px right, down and of radius, degrees
    counterclockwise."""

    x: float = 0.0
    y: float = 0.0
    radius: float = 0.0
    rotation: float = 0.0

    def of(self, scene: Scene) -> Scene:
        jitter = scene.radius_jitter + self.radius / SIZES[scene.size][1]
        x = scene.x + self.x
        y = scene.y + self.y
        rotation = scene.rotation + self.rotation
        return replace(scene, x=x, y=y, rotation=rotation, radius_jitter=jitter)


def fit(picture: Array, scene: Scene) -> ShapePlace:
    """The placement of the scene's object that comes nearest to a picture, by descent along one
    axis at a time."""

    def error(placement: ShapePlace) -> float:
        return float(np.square(draw(placement.of(scene)).astype(np.float32) - picture).mean())

    best = ShapePlace()
    least = error(best)
    for step in STEPS:
        improved = True
        while improved:
            improved = False
            for name, value in best._asdict().items():
                for move in (step, -step):
                    moved = best._replace(
                        **{name: value + move * (TURN if name == "rotation" else 1.0)}
                    )
                    if (found := error(moved)) < least:
                        best = moved
                        least = found
                        improved = True
    return best


def displaced(
    edited: Sequence[Scene],
    pairs: Sequence[Pair],
    offset: float,
    rng: np.random.Generator,
) -> float:
    """Mean share of rightly changed pixels of true edits drawn off by normal numbers of this
    deviation, px an axis."""
    placed = [ShapePlace(*rng.normal(0.0, offset, 2).tolist()) for _ in edited]
    return _share(
        [draw(place.of(scene)) for place, scene in zip(placed, edited, strict=True)], pairs
    )


def study(engine: Engine, count: int, seed: int) -> dict[str, Any]:
    """How far off new shapes are and what that explains; `count` shape edits by default
    settings."""
    rng = np.random.default_rng(seed)
    scenes, edited = zip(*(sample_edit(rng, KIND) for _ in range(count)), strict=True)
    pairs = [pair_of(*both, KIND) for both in zip(scenes, edited, strict=True)]
    pictures = [np.asarray(result.image) for result in run_edits(engine, pairs, {})]
    placed = [fit(picture, scene) for picture, scene in zip(pictures, edited, strict=True)]
    drawn = [draw(place.of(scene)) for place, scene in zip(placed, edited, strict=True)]
    off = np.array(placed)
    return {
        "pairs": count,
        "seed": seed,
        "changed_share": _share(pictures, pairs),
        "changed_share_of_true_edits_so_placed": _share(drawn, pairs),
        "rms_off": _named(np.sqrt(np.square(off).mean(0))),
        "mean_off": _named(off.mean(0)),
        "median_distance_px": round(float(np.median(np.hypot(off[:, 0], off[:, 1]))), 2),
        "changed_share_of_true_edits_drawn_off": {
            f"{offset:g} px": displaced(edited, pairs, offset, np.random.default_rng(0))
            for offset in OFFSETS
        },
    }


def _named(values: np.ndarray) -> dict[str, float]:
    return dict(zip(ShapePlace._fields, values.round(2).tolist(), strict=True))


def _share(pictures: Sequence[Array], pairs: Sequence[Pair]) -> float:
    return round(
        float(np.mean([changed_share(*both) for both in zip(pictures, pairs, strict=True)])), 3
    )


def main(arguments: Sequence[str] | None = None) -> None:
    description = "Measure how far from its place the new shape of an edit lies."
    options = command_line("training.world.placement", description).parse_args(arguments)
    print(
        json.dumps(
            study(Engine.from_pretrained(options.model), options.pairs, options.seed), indent=1
        )
    )


if __name__ == "__main__":
    main()
