"""Pairs: their mask, their kinds, and that they are exact."""

import numpy as np

from training.world.pairs import CHANGE_THRESHOLD, change_mask, sample_pairs
from training.world.scenes import parse_caption


def test_change_mask_is_the_changed_pixels_grown_by_three() -> None:
    picture = np.full((20, 20, 3), 100, np.uint8)
    truth = picture.copy()
    truth[10, 5, 1] = 109
    truth[0, 19, 2] = 91
    truth[15, 15] = 108
    expected = np.zeros((20, 20), bool)
    expected[7:14, 2:9] = True
    expected[:4, 16:] = True
    np.testing.assert_array_equal(change_mask(picture, truth), expected)


def test_pairs_cycle_through_kinds_and_are_exact() -> None:
    pairs = sample_pairs(8, seed=5, kinds=("color", "shape", "texture"))
    assert [pair.kind for pair in pairs[:4]] == ["color", "shape", "texture", "color"]
    for pair in pairs:
        source, target = parse_caption(pair.source), parse_caption(pair.target)
        assert [kind for kind in source if source[kind] != target[kind]] == [pair.kind]
        np.testing.assert_array_equal(pair.mask, change_mask(pair.picture, pair.truth))
        difference = np.abs(pair.picture.astype(int) - pair.truth).max(-1)
        assert pair.mask.any() and difference[~pair.mask].max(initial=0) <= CHANGE_THRESHOLD
