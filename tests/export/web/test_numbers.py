"""Noise, guidance, sizes and roundings of the page are Python's."""

import random

import numpy as np

from icd_engine.model import MOST_ASPECT, fitted_size
from icd_engine.sampling.guidance import dynamic_guidance, guidance_embedding
from icd_engine.sampling.noise import normal_noise
from tests.export.web.node import needs_node, values

pytestmark = needs_node


def test_noise():
    """Logarithm and cosine may differ by a unit of float32, radii reach 5.8: 2 units there."""
    draw = random.Random(1)
    seeds = [
        0,
        1,
        7,
        2**32 - 1,
        2**32,
        2**53,
        2**63 - 1,
        *(draw.getrandbits(63) for _ in range(40)),
    ]
    counts = [16, 17, 31, 1024, 4096, 1000]
    cases = [(seed, draw.choice(counts)) for seed in seeds]
    for (seed, count), theirs in zip(
        cases, values([("noise", str(seed), count) for seed, count in cases]), strict=True
    ):
        assert np.abs(np.float32(theirs) - normal_noise(seed, (count,))).max() <= 1e-6, seed


def test_dynamic_guidance():
    draw = random.Random(2)
    cases = []
    for _ in range(2000):
        tau = draw.choice((0.8, 0.259, round(draw.random(), 3)))
        if draw.random() < 0.3:
            tau = sorted((tau, round(draw.random(), 3)))
        t = draw.choice((0, 259, 519, 779, 999, draw.randrange(1000)))
        cases.append((t, draw.uniform(0, 20), tau, draw.choice((0.0, 0.3)), 1000))
    found = values([("guidance", *case) for case in cases])
    assert found == [dynamic_guidance(*case) for case in cases]


def test_guidance_embedding():
    """To a unit of float32 in the sine: numpy's and the browser's round differently."""
    draw = random.Random(3)
    scales = [0.0, 1.0, 4.0, 7.0, 100.0, *(draw.uniform(0, 100) for _ in range(200))]
    for width in (512, 64, 5):
        (found,) = values([("embedding", scales, width)])
        own = guidance_embedding(scales, width)
        assert np.abs(np.float32(found).reshape(own.shape) - own).max() <= 1.2e-7


def test_fitted_sizes():
    draw = random.Random(4)
    cases = []
    for _ in range(3000):
        picture = [draw.randint(1, 5000), draw.randint(1, 5000)]
        area, step = draw.choice((([128, 128], 16), ([512, 512], 64), ([768, 512], 64)))
        cases.append((picture, area, step, MOST_ASPECT))
    found = values([("fitted", *case) for case in cases])
    own = [fitted_size((p[0], p[1]), (a[0], a[1]), step) for p, a, step, _ in cases]
    assert [tuple(one) for one in found] == own


def test_halves_are_rounded_to_even():
    numbers = [k / 4 for k in range(-40, 40)]
    assert values([("even", one) for one in numbers]) == [round(one) for one in numbers]
