"""Rings: exact distances, nothing outside of a mask, all of the edit in its middle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from icd_engine.feathering import bounds, distances, ring_weights

unhurried = settings(deadline=None)
SHAPES = st.tuples(st.integers(1, 13), st.integers(1, 13))
TRUTHS = SHAPES.flatmap(lambda shape: arrays(bool, shape))


def brute_distances(inside: np.ndarray, most: float) -> np.ndarray:
    outside = np.argwhere(~inside)
    places = np.moveaxis(np.indices(inside.shape), 0, -1)
    away = [np.linalg.norm(places - place, axis=-1) for place in outside]
    return np.min([np.full(inside.shape, most), *away], axis=0)


@unhurried
@given(TRUTHS, st.sampled_from([1, 2.5, 4, 9]))
def test_distances_are_the_euclidean_ones(inside, most):
    # Square roots of whole numbers below 200, rounded to float32
    assert np.allclose(distances(inside, most), brute_distances(inside, most), rtol=0, atol=1e-6)


def test_far_distances_fit_their_type():
    inside = np.ones((600, 3), dtype=bool)
    inside[0] = False
    assert np.array_equal(distances(inside, 500)[:, 1], np.minimum(np.arange(600), 500))


@unhurried
@given(TRUTHS, st.floats(0, 8))
def test_weights_are_0_outside_and_1_behind_the_ring(inside, feather):
    weights = ring_weights(inside.astype(np.float32), feather)
    assert weights.dtype == np.float32 and weights.min() >= 0 and weights.max() <= 1
    assert np.array_equal(weights > 0, inside)
    assert (weights[brute_distances(inside, 99) >= max(feather, 1)] == 1).all()


@unhurried
@given(st.integers(1, 40), st.integers(0, 3), st.floats(0, 16), st.booleans())
def test_at_least_half_of_a_stripe_is_wholly_edited(width, before, feather, turned):
    mask = np.zeros((9, before + width + 2), dtype=np.float32)
    mask[:, before : before + width] = 1
    weights = ring_weights(mask.T if turned else mask, feather)
    row = (weights.T if turned else weights)[4, before : before + width]
    # One that touches the border has an edge on the other side alone.
    edges = 2 if before else 1
    assert np.count_nonzero(row == 1) >= width - edges * min(feather, width / (2 * edges)) - edges
    if before:
        assert np.array_equal(row, row[::-1])


@pytest.mark.parametrize("angle", [0.0, 0.3, np.pi / 4, 1.2])
def test_slanted_stripes_have_a_whole_middle(angle):
    y, x = np.mgrid[:90, :90] - 45
    across = np.abs(x * np.sin(angle) + y * np.cos(angle))
    weights = ring_weights((across < 6).astype(np.float32), 10.0)
    across = np.where(np.maximum(abs(x), abs(y)) < 35, across, np.inf)  # not where it is cut off
    assert (weights[across < 1] == 1).all()
    assert (weights[(across > 5) & (across < 6)] < 1).all()


def test_a_ring_is_even_and_bumps_of_an_edge_do_not_break_it():
    mask = np.zeros((60, 60), dtype=np.float32)
    mask[20:] = 1
    even = ring_weights(mask, 8.0)
    assert np.allclose(even[19:29, 30], [0, *(np.arange(1, 9) / 8), 1])
    mask[19, 30] = 1
    bumpy = ring_weights(mask, 8.0)
    assert bumpy[19, 30] <= 1 / 8 + 1e-6
    assert np.abs(bumpy - even).max() <= 1 / 8 + 1e-6


def test_a_stripe_that_leaves_a_larger_part_is_whole_in_its_middle():
    mask = np.zeros((60, 80), dtype=np.float32)
    mask[10:50, :40] = 1
    mask[28:33, 40:] = 1
    weights = ring_weights(mask, 8.0)
    assert (weights[30, 42:] == 1).all()
    assert weights[30, 34:42].min() > 0.5


@pytest.mark.parametrize("mask", [np.zeros((5, 7)), np.ones((5, 7)), np.eye(5)])
def test_masks_without_a_ring(mask):
    assert np.array_equal(ring_weights(mask, 4.0), mask)
    assert np.array_equal(ring_weights(mask / 3, 0.0), mask)


def test_bounds_hold_the_mask_and_a_pixel_around_it():
    mask = np.zeros((9, 9))
    assert bounds(mask) is None
    mask[3:5, 0] = 0.1
    assert bounds(mask) == (slice(2, 6), slice(0, 2))
