"""Displacement against textures that were drawn displaced by so much."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.evaluation.shift import shift
from training.world.drawing import TEXTURE_PERIODS, draw
from training.world.pairs import change_mask
from training.world.scenes import sample_scene

# Of sixteen scenes with up to 5 px the worst were 0.15 px off: a texture's few frequencies leave a
# broad peak, which the object's hole makes uneven.
TOLERANCE = 0.2


def scene(texture: str, seed: int = 3):
    return replace(sample_scene(np.random.default_rng(seed)), texture=texture)


def background(of) -> np.ndarray:
    """Where nothing depends on the object's colour."""
    return ~change_mask(draw(of), draw(of.edited("color", of.alternatives("color")[0])))


def displaced(of, x: float, y: float):
    period = TEXTURE_PERIODS[of.texture]
    return replace(of, phase=(of.phase[0] + x / period, of.phase[1] + y / period))


@pytest.mark.parametrize("texture", TEXTURE_PERIODS)
@pytest.mark.parametrize(("x", "y"), [(0.3, 0.0), (1.0, -2.5), (-4.4, 3.1)])
def test_a_displaced_background_is_found(texture, x, y):
    """The object stays where it is; along stripes nothing can be seen to move."""
    first = scene(texture)
    noise = np.random.default_rng(1).normal(0, 4, (128, 128, 3))
    moved = np.clip(draw(displaced(first, x, y)) + noise, 0, 255).astype(np.uint8)
    expected = abs(x) if texture == "striped" else np.hypot(x, y)
    assert shift(draw(first), moved, background(first)) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("texture", TEXTURE_PERIODS)
def test_equal_pictures_are_not_displaced(texture):
    first = scene(texture)
    assert shift(draw(first), draw(first), background(first)) == 0.0


def test_what_the_mask_covers_does_not_count():
    """A moved object alone is no moved background."""
    first = replace(scene("dotted"), x=60.0)
    other = replace(first, x=66.0)
    where = ~change_mask(draw(first), draw(other)) & background(first) & background(other)
    assert shift(draw(first), draw(other), where) == 0.0


def test_plain_and_missing_backgrounds_have_none():
    plain, dotted = draw(scene("plain")), draw(scene("dotted"))
    everywhere = np.ones((128, 128), bool)
    assert shift(plain, plain, background(scene("plain"))) is None
    assert shift(dotted, dotted, ~everywhere) is None
    assert shift(dotted, np.full_like(dotted, 99), everywhere) is None  # the edit has none
