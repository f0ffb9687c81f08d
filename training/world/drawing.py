"""Pictures of scenes: antialiased from signed distances, equal to the last bit where an edit changes
nothing."""

from collections.abc import Sequence

import numpy as np

from training.world.scenes import COLORS, PICTURE_SIZE, Scene
from training.world.shapes import REACH, SHAPES, Array

TEXTURE_PERIODS = {"striped": 20.0, "checkered": 24.0, "dotted": 20.0}  # px
# Share of white in the light shade and of black in the dark one: they are 41 of 255 apart, whatever
# the colour.
TEXTURE_CONTRAST = 0.16


def draw(scene: Scene) -> Array:
    """The picture of a scene, uint8 [128, 128, 3]."""
    return draw_batch([scene])[0]


def draw_batch(scenes: Sequence[Scene]) -> Array:
    """The pictures of scenes, uint8 [N, 128, 128, 3]."""
    pictures = np.empty((len(scenes), PICTURE_SIZE, PICTURE_SIZE, 3), np.uint8)
    # One picture at a time: its planes stay in the cache, which beats arithmetic on the whole
    # batch.
    for scene, picture in zip(scenes, pictures, strict=True):
        planes = _draw_background(scene)
        _draw_object(scene, planes)
        picture[:] = (planes + 0.5).astype(np.uint8).transpose(1, 2, 0)
    return pictures


def _draw_background(scene: Scene) -> Array:
    """float32 [3, 128, 128] in 0..255."""
    base = _jittered(COLORS[scene.background][1], scene.background_jitter)
    planes = np.empty((3, PICTURE_SIZE, PICTURE_SIZE), np.float32)
    if scene.texture == "plain":
        planes[:] = base
        return planes
    dark = base * (1 - TEXTURE_CONTRAST)
    light = base + (255 - base) * TEXTURE_CONTRAST
    np.multiply(_texture(scene), light - dark, out=planes)
    planes += dark
    return planes


def _texture(scene: Scene) -> Array:
    """Share of the light shade, float32, broadcastable to [128, 128]."""
    period = TEXTURE_PERIODS[scene.texture]
    pixels = np.arange(PICTURE_SIZE, dtype=np.float32) + 0.5
    # Distance of each column and row from the middle of its period, px.
    x, y = (
        np.abs((pixels - np.float32(phase * period)) % period - period / 2) for phase in scene.phase
    )
    if scene.texture == "dotted":
        return _coverage(np.sqrt(x * x + (y * y)[:, None]) - 0.34 * period)
    columns = _coverage(x - period / 4)
    if scene.texture == "striped":
        return columns
    rows = _coverage(y - period / 4)[:, None]
    return columns + rows - 2 * columns * rows


def _draw_object(scene: Scene, planes: Array) -> None:
    """Blends the object into planes [3, 128, 128]; only the window it can reach is computed."""
    reach = REACH * scene.radius + 1
    left, top = (max(int(centre - reach), 0) for centre in (scene.x, scene.y))
    right, bottom = (min(int(centre + reach) + 1, PICTURE_SIZE) for centre in (scene.x, scene.y))
    x = (np.arange(left, right, dtype=np.float32) + np.float32(0.5 - scene.x)) / np.float32(
        scene.radius
    )
    y = (np.float32(scene.y - 0.5) - np.arange(top, bottom, dtype=np.float32))[
        :, None
    ] / np.float32(scene.radius)
    angle = np.deg2rad(scene.rotation)
    cos = np.float32(np.cos(angle))
    sin = np.float32(np.sin(angle))
    distance = SHAPES[scene.shape](cos * x + sin * y, cos * y - sin * x)
    coverage = _coverage(distance * np.float32(scene.radius))
    window = planes[:, top:bottom, left:right]
    # In this form a coverage of 0 or 1 is exact, so that pixels an edit does not touch are equal to
    # the last bit.
    window *= 1 - coverage
    window += coverage * _jittered(COLORS[scene.color][0], scene.color_jitter)


def _coverage(distance: Array) -> Array:
    """Share of a pixel inside an edge at a signed distance in px."""
    return np.clip(0.5 - distance, 0, 1)


def _jittered(color: tuple[int, int, int], jitter: tuple[float, float, float]) -> Array:
    """float32 [3, 1, 1] in 0..255."""
    return np.clip(np.add(color, jitter), 0, 255).astype(np.float32)[:, None, None]
