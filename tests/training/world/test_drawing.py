"""Drawing: antialiased, inside the margin, and exact wherever an edit changes nothing."""

from dataclasses import replace

import numpy as np
import pytest

from training.world.drawing import TEXTURE_CONTRAST, draw, draw_batch
from training.world.scenes import COLORS, Scene, sample_scene
from training.world.shapes import REACH, SHAPES


def scenes(n: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng) for _ in range(n)]


PLAIN = Scene(
    size="large",
    color="white",
    shape="circle",
    texture="plain",
    background="black",
    x=64.0,
    y=64.0,
    radius_jitter=0.0,
    rotation=0.0,
    color_jitter=(0.0, 0.0, 0.0),
    background_jitter=(0.0, 0.0, 0.0),
    phase=(0.13, 0.37),
)


def covered(scene: Scene) -> np.ndarray:
    """Share of each pixel that the object covers, [128, 128], told from a white drawing of it on
    black."""
    hidden = {"color_jitter": PLAIN.color_jitter, "background_jitter": PLAIN.background_jitter}
    black_and_white = replace(scene, color="white", background="black", texture="plain", **hidden)
    white, black = COLORS["white"][0][0], COLORS["black"][1][0]
    return (draw(black_and_white)[..., 0].astype(float) - black) / (white - black)


def grown(region: np.ndarray) -> np.ndarray:
    """A region and its neighbours: coverage below half a level of 255 is not seen in the
    drawing."""
    padded = np.pad(region, 1)
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).max((-2, -1))


def test_pictures_are_uint8_128_by_128() -> None:
    pictures = draw_batch(scenes(3))
    assert pictures.shape == (3, 128, 128, 3) and pictures.dtype == np.uint8
    assert draw_batch([]).shape == (0, 128, 128, 3)


@pytest.mark.parametrize("kind", ["color", "background", "texture", "shape", "size"])
def test_pixels_an_edit_does_not_touch_are_equal_to_the_last_bit(kind: str) -> None:
    for scene in scenes(40, seed=1):
        edited = scene.edited(kind, scene.alternatives(kind)[0])
        equal = (draw(scene) == draw(edited)).all(-1)
        if kind in ("background", "texture"):
            untouched = ~grown(covered(scene) < 1)
        else:
            untouched = ~grown((covered(scene) > 0) | (covered(edited) > 0))
        assert untouched.sum() > 500
        assert equal[untouched].all()


@pytest.mark.parametrize("shape", list(SHAPES))
def test_objects_keep_the_margin_in_every_rotation_and_size(shape: str) -> None:
    inner = np.zeros((128, 128), bool)
    inner[4:-4, 4:-4] = True
    for scene in scenes(60, seed=2):
        assert not covered(scene.edited("shape", shape).edited("size", "large"))[~inner].any()


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("rotation", [0.0, 17.0, -25.0])
def test_reach_bounds_the_shape_and_areas_are_alike(shape: str, rotation: float) -> None:
    """Area within 10 % of 2.55 r^2 for r = 36: a word of size means the same for all shapes."""
    coverage = covered(replace(PLAIN, shape=shape, rotation=rotation))
    rows, columns = np.nonzero(coverage)
    assert np.hypot(rows + 0.5 - 64, columns + 0.5 - 64).max() < REACH * 36 + 1
    assert coverage.sum() / 36**2 == pytest.approx(2.55, rel=0.1)


def test_circle_edges_carry_the_exact_area() -> None:
    """Antialiasing: partly covered pixels line the edge, and the area is pi r^2 at any subpixel
    position."""
    radius = 0.94 * 36
    for offset in (0.0, 0.25, 0.6):
        coverage = covered(replace(PLAIN, x=64 + offset, y=64 - offset / 2))
        partial = (coverage > 0.02) & (coverage < 0.98)
        assert 0.5 * 2 * np.pi * radius < partial.sum() < 2 * 2 * np.pi * radius
        assert coverage.sum() == pytest.approx(np.pi * radius**2, rel=1e-3)


@pytest.mark.parametrize("texture", ["striped", "checkered", "dotted"])
def test_textures_show_two_shades_with_soft_edges_and_move_with_their_phase(texture: str) -> None:
    picture = draw(replace(PLAIN, texture=texture))
    corner = picture[:24, :24, 0].astype(int)
    dark, light = corner.min(), corner.max()
    assert light - dark == pytest.approx(TEXTURE_CONTRAST * 255, abs=1)
    assert ((corner > dark + 2) & (corner < light - 2)).any()
    assert (picture[:24] != draw(replace(PLAIN, texture=texture, phase=(0.63, 0.37)))[:24]).any()
