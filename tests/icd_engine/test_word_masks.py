"""Masks from words: self-attention fills maps, the picture gives the edges."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from icd_engine.word_masks import _windows, cut, grown, self_attention, word_mask

SIZE = (128, 96)


@pytest.fixture
def picture() -> Image.Image:
    """A red disk on blue, and a noise that is not its edge."""
    canvas = Image.new("RGB", SIZE, (40, 70, 180))
    ImageDraw.Draw(canvas).ellipse((40, 20, 90, 70), fill=(210, 40, 40))
    noise = np.random.default_rng(0).normal(0, 6, (96, 128, 3))
    return Image.fromarray(np.clip(np.asarray(canvas) + noise, 0, 255).astype(np.uint8))


def disk() -> np.ndarray:
    y, x = np.mgrid[:96, :128]
    return (x - 65) ** 2 + (y - 45) ** 2 <= 25**2


def shares() -> np.ndarray:
    """How much of each of 12 x 16 cells is the disk's."""
    return disk().reshape(12, 8, 16, 8).mean(axis=(1, 3)).astype(np.float32)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum()


def test_windows_are_means_of_what_is_there():
    values = np.random.default_rng(0).random((30, 17))
    means = _windows(values)
    assert np.isclose(means[0, 0], values[:13, :13].mean())
    assert np.isclose(means[20, 16], values[8:30, 4:].mean())
    assert np.allclose(_windows(np.ones((5, 40, 3))), 1)


def test_attention_is_the_mean_of_heads_and_blocks():
    rng = np.random.default_rng(0)
    blocks = [tuple(rng.normal(size=(2, 2, 6, 4)).astype(np.float32)) for _ in range(3)]
    mean = self_attention(blocks)
    first = np.exp(blocks[0][0][1] @ blocks[0][1][1].T / 2)
    first /= first.sum(axis=1, keepdims=True)
    assert mean.shape == (6, 6) and np.allclose(mean.sum(axis=1), 1, atol=1e-5)
    assert np.allclose(self_attention([(q[1:], k[1:]) for q, k in blocks[:1]]), first, atol=1e-6)


def test_a_guide_gives_the_edges(picture):
    guided = cut(shares(), np.asarray(picture), SIZE)
    plain = cut(shares(), None, SIZE)
    assert overlap(guided, disk()) > max(0.95, overlap(plain, disk()))
    floats = np.asarray(picture).astype(np.float32) / 255
    assert overlap(cut(shares(), floats, SIZE), guided) > 0.99


def test_attention_fills_a_map_up_to_what_belongs_together(picture):
    """A map of a part of the disk, and one of nothing."""
    inside = shares() > 0.5
    alike = inside.reshape(-1)[:, None] == inside.reshape(-1)
    attention = (alike / alike.sum(axis=1, keepdims=True)).astype(np.float32)
    part = np.zeros((12, 16), dtype=np.float32)
    part[3:5, 6:9] = 1
    maps = np.stack([part, np.zeros_like(part)])
    assert overlap(word_mask(maps, attention, picture, None, SIZE), disk()) > 0.9
    assert overlap(word_mask(maps, None, picture, None, SIZE), disk()) < 0.6


def test_source_and_target_are_both_in_it(picture):
    maps = np.stack([shares(), shares()[::-1, ::-1]])
    flipped = picture.transpose(Image.Transpose.ROTATE_180)
    found = word_mask(maps, None, picture, np.asarray(flipped), SIZE)
    assert overlap(found, disk() | disk()[::-1, ::-1]) > 0.95


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_maps_that_say_nothing_leave_all_open(value):
    assert word_mask(np.full((2, 4, 4), value, np.float32), None, None, None, (9, 7)).all()


def test_grown_masks_hold_what_is_near():
    mask = np.zeros((9, 9), dtype=bool)
    mask[4, 4] = True
    y, x = np.mgrid[:9, :9] - 4
    assert np.array_equal(grown(mask, 2.5), np.hypot(x, y) <= 2.5)
    assert np.array_equal(grown(mask, 0), mask)
