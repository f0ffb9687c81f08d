"""The search finds back how a scene was moved, resized and turned."""

from dataclasses import replace

import numpy as np
import pytest

from training.world import placement
from training.world.drawing import draw
from training.world.pairs import pair_of
from training.world.placement import ShapePlace
from training.world.scenes import sample_edit, sample_scene

SCENE = replace(sample_scene(np.random.default_rng(5)), shape="cross", size="large")


@pytest.mark.parametrize(
    "moved",
    [
        ShapePlace(),
        ShapePlace(x=3.5, y=-2.0),
        ShapePlace(radius=-2.5),
        ShapePlace(rotation=6.0),
        ShapePlace(5.0, 4.0, 1.5, -3.0),
    ],
    ids=str,
)
def test_fit_finds_the_placement(moved):
    assert placement.fit(draw(moved.of(SCENE)), SCENE) == moved


def test_what_is_drawn_farther_off_scores_less():
    rng = np.random.default_rng(0)
    scenes, edited = zip(*(sample_edit(rng, "shape") for _ in range(12)), strict=True)
    pairs = [pair_of(*both, "shape") for both in zip(scenes, edited, strict=True)]
    shares = [
        placement.displaced(edited, pairs, offset, np.random.default_rng(1))
        for offset in (0.0, 1.0, 4.0)
    ]
    assert shares[0] == 1.0 and shares[0] > shares[1] > shares[2]
