"""The figures of an edit against values worked out by hand."""

import numpy as np
import pytest

from training import world
from training.quality import changed_share, psnr


def test_psnr_of_a_known_error():
    a = np.zeros((4, 4, 3), np.uint8)
    b = np.full_like(a, 51)  # a fifth of the range: 10 log10 25
    assert psnr(a, b) == pytest.approx(13.9794, abs=1e-4)


def test_psnr_looks_only_where_told():
    a, b = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)
    b[0] = 255
    where = np.zeros((4, 4), bool)
    where[0] = True
    assert psnr(a, b, where) == pytest.approx(0.0, abs=1e-9)
    assert psnr(a, b, ~where) > 100


@pytest.mark.parametrize(("blend", "share"), [(0.0, 0.0), (0.4, 0.0), (0.6, 1.0), (1.0, 1.0)])
def test_changed_share_counts_pixels_nearer_to_the_truth(blend, share):
    (pair,) = world.sample_pairs(1, 3, ["color"])
    edited = (1 - blend) * pair.picture.astype(float) + blend * pair.truth
    assert changed_share(np.rint(edited).astype(np.uint8), pair) == pytest.approx(share, abs=0.02)
