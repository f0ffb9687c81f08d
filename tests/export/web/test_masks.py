"""Masks of the page are Python's to the bit: cells, hops, pixels, rings, pasting back."""

import numpy as np
from PIL import Image

from icd_engine.compositing import paste_back
from icd_engine.feathering import ring_weights
from icd_engine.masks import by_hop, for_targets, touched
from tests.export.web.node import answers, needs_node, values

pytestmark = needs_node


def mask(generator: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Discs, bars and stray pixels, [h, w] in 0..1."""
    rows, columns = np.mgrid[:height, :width]
    out = np.zeros((height, width), dtype=np.float32)
    for _ in range(generator.integers(0, 4)):
        y, x, r = (
            generator.integers(0, height),
            generator.integers(0, width),
            generator.uniform(1, 30),
        )
        disc = (rows - y) ** 2 + (columns - x) ** 2 < r**2
        bar = (abs(rows - y) < r / 6) & (abs(columns - x) < 2 * r)
        out[disc if generator.random() < 0.6 else bar] = generator.choice((1.0, 1.0, 0.4, 0.75))
    out[generator.random(out.shape) < 0.002] = 1
    return out


def masks(seed: int, count: int = 60) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [mask(generator, *generator.integers(8, 110, 2)) for _ in range(count)]


def as_given(own: np.ndarray) -> list:
    return [own.shape[1], own.shape[0], own.ravel().tolist()]


def test_cells_that_are_touched():
    generator = np.random.default_rng(1)
    cases = [(own, tuple(generator.integers(1, 20, 2).tolist())) for own in masks(1)]
    found = values([("touched", as_given(own), size) for own, size in cases])
    for (own, size), theirs in zip(cases, found, strict=True):
        assert np.array_equal(np.float32(theirs), touched(own, size).ravel())


def test_what_hops_may_do():
    strengths = np.concatenate([np.linspace(0, 1, 81), np.arange(9) / 8]).astype(np.float32)
    for hops in (1, 3, 4):
        calls = [("afterHop", strengths.tolist(), k, hops) for k in range(hops)]
        own = by_hop(strengths[None], hops)[:, 0]
        assert np.array_equal(np.float32(values(calls)), own)


def test_where_pictures_may_change():
    generator = np.random.default_rng(2)
    calls = []
    wanted = []
    for own in masks(2):
        size = own.shape[1], own.shape[0]
        cells = (generator.random((16, 24)) < 0.1).astype(np.float32)
        for user, by_words in ((own, None), (own, cells), (None, cells)):
            given = [None if one is None else as_given(one) for one in (user, by_words)]
            calls.append(("forTarget", *given, size))
            blended = None if by_words is None else by_words[None]
            wanted.append(for_targets(user, blended, 1, size)[0].ravel())
    for theirs, own in zip(values(calls), wanted, strict=True):
        assert np.array_equal(np.float32(theirs), own)


def test_rings():
    generator = np.random.default_rng(3)
    cases = [
        (own, float(generator.choice((0.0, 1.0, 2.5, 4.0, 12.0, 31.0)))) for own in masks(3, 150)
    ]
    cases += [(np.ones((9, 9), np.float32), 4.0), (np.zeros((9, 9), np.float32), 4.0)]
    found = values([("ring", as_given(own), feather) for own, feather in cases])
    for (own, feather), theirs in zip(cases, found, strict=True):
        assert np.array_equal(np.float32(theirs), ring_weights(own, feather).ravel()), feather


def test_pasting_back():
    generator = np.random.default_rng(4)
    for own in masks(4, 12):
        pictures = generator.integers(0, 256, (2, *own.shape, 3), dtype=np.uint8)
        given = [one.ravel().tolist() for one in pictures]
        (found,) = values([("paste", *given, as_given(own), 5.0)])
        wanted = paste_back(Image.fromarray(pictures[0]), pictures[1], own, 5.0)
        assert np.array_equal(found, wanted.ravel())


def test_a_mask_of_another_size_or_value_is_refused():
    for given in (
        [2, 3, [0] * 6],
        [3, 2, [0] * 5],
        [3, 2, [0, 0, 0, 0, 0, 1.5]],
        [3, 2, [-0.1] * 6],
    ):
        (found,) = answers([("checkedMask", given, [3, 2])])
        assert found["error"] == "ImageError"
    assert values([("checkedMask", [3, 2, [0, 1, 0.5, 0, 0, 1]], [3, 2])])
