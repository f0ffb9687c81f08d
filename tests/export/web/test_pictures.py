"""Pixels of the page are Pillow's and Python's to the bit: resizing, range, detail."""

import random

import numpy as np
import pytest
from PIL import Image

from icd_engine.compositing import OTHER, SAME, finish, with_detail
from icd_engine.errors import ImageError
from icd_engine.images import to_model_range, to_pil
from tests.export.web.node import answers, needs_node, values

pytestmark = needs_node
LIMITS = {"same": SAME, "other": OTHER}


def picture(generator: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Smooth with hard edges and extremes, [h, w, 3]."""
    rows, columns = np.mgrid[:height, :width]
    waves = np.sin(rows / 5 + generator.uniform(0, 6)) + np.cos(columns / generator.uniform(2, 9))
    base = 128 + 60 * waves[..., None] + generator.normal(0, 20, (height, width, 3))
    base[generator.random((height, width)) < 0.05] = generator.choice((0, 255))
    return np.clip(base, 0, 255).astype(np.uint8)


def as_given(pixels: np.ndarray) -> list:
    return [pixels.shape[1], pixels.shape[0], pixels.ravel().tolist()]


def sizes(count: int, most: int = 70) -> list[tuple[int, int]]:
    draw = random.Random(count)
    return [(draw.randint(1, most), draw.randint(1, most)) for _ in range(count)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
def test_resizing(method, channels):
    generator = np.random.default_rng(channels)
    calls = []
    wanted = []
    for start, end in zip(sizes(150), reversed(sizes(150, 90)), strict=True):
        pixels = picture(generator, *start)
        pixels = pixels if channels == 3 else pixels[..., 0]
        own = Image.fromarray(pixels).resize(end, getattr(Image.Resampling, method.upper()))
        wanted.append(np.asarray(own).ravel())
        calls.append(("resized", pixels.ravel().tolist(), channels, start, end, method))
    for theirs, own in zip(values(calls), wanted, strict=True):
        assert np.array_equal(theirs, own)


def test_model_range():
    generator = np.random.default_rng(3)
    calls = []
    wanted = []
    for start in sizes(40):
        for size in (start, (32, 48)):
            pixels = picture(generator, *start)
            calls.append(("range", as_given(pixels), size))
            wanted.append(to_model_range(Image.fromarray(pixels), size).ravel())
    for theirs, own in zip(values(calls), wanted, strict=True):
        assert np.array_equal(np.float32(theirs), own)


def test_pixels():
    generator = np.random.default_rng(4)
    edges = (np.arange(256)[:, None] + (-0.5, -1e-6, 0, 1e-6, 0.5)) / 127.5 - 1
    floats = np.concatenate([generator.normal(0, 1, 3 * 40 * 44 - edges.size), edges.ravel()])
    given = floats.astype(np.float32).reshape(3, 44, 40)
    (found,) = values([("pixels", given.ravel().tolist(), 40, 44)])
    assert np.array_equal(found, np.asarray(to_pil(given)).ravel())


def test_pixels_that_are_no_numbers_are_refused():
    (found,) = answers([("pixels", [0.0, None, 1.0], 1, 1)])
    assert "value" in found  # null is 0 in JavaScript, as in no file of ours
    (found,) = answers([("pixels", [0.0, "NaN", 1.0], 1, 1)])
    assert found["error"] == "ImageError" and "NaN" in found["text"]
    with pytest.raises(ImageError, match="NaN"):
        to_pil(np.full((3, 1, 1), np.nan, dtype=np.float32))


def test_transparent_pictures_lie_on_white():
    generator = np.random.default_rng(5)
    pixels = generator.integers(0, 256, (20, 30, 4), dtype=np.uint8)
    pixels[:5, :, 3] = 255
    pixels[5:9, :, 3] = 0
    (found,) = values([("asPixels", 30, 20, pixels.ravel().tolist())])
    own = np.array(found, dtype=int).reshape(20, 30, 3)
    assert np.array_equal(own[:5], pixels[:5, :, :3]) and (own[5:9] == 255).all()
    share = pixels[..., 3:] / 255
    assert np.abs(own - (share * pixels[..., :3] + (1 - share) * 255)).max() <= 0.5


@pytest.mark.parametrize("given", [(0, 3, []), (9000, 9000, []), (2, 2, [1, 2, 3])])
def test_what_is_no_picture_is_refused(given):
    (found,) = answers([("asPixels", *given)])
    assert found["error"] == "ImageError"


def test_detail():
    """finish and with_detail of compositing: whatever is lost comes back where the edit agrees."""
    generator = np.random.default_rng(6)
    calls = []
    wanted = []
    for own_size in sizes(40, 90):
        small = (32, 48)
        original = Image.fromarray(picture(generator, *own_size))
        kept = Image.fromarray(picture(generator, *small))
        near = np.asarray(kept).astype(int) + generator.integers(-30, 31, (48, 32, 1))
        near[10:30] = picture(generator, 32, 20)
        edited = Image.fromarray(np.clip(near, 0, 255).astype(np.uint8))
        share = float(generator.choice((0.0, 0.37, 1.0)))
        whole = finish([edited], own_size)
        if share:
            whole = with_detail(whole, [edited], original, kept, share)
        wanted.append(np.asarray(whole[0]).ravel())
        arrays = [as_given(np.asarray(one)) for one in (edited, original, kept)]
        calls.append(("finished", *arrays, share, LIMITS))
    for theirs, own in zip(values(calls), wanted, strict=True):
        assert np.array_equal(theirs, own)
