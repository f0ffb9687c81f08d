"""The figures of an edit against values worked out by hand."""

import numpy as np
import pytest

from training.world.pairs import sample_pairs
from training.world.quality import changed_share


@pytest.mark.parametrize(("blend", "share"), [(0.0, 0.0), (0.4, 0.0), (0.6, 1.0), (1.0, 1.0)])
def test_changed_share_counts_pixels_nearer_to_the_truth(blend, share):
    (pair,) = sample_pairs(1, 3, ["color"])
    edited = (1 - blend) * pair.picture.astype(float) + blend * pair.truth
    assert changed_share(np.rint(edited).astype(np.uint8), pair) == pytest.approx(share, abs=0.02)
