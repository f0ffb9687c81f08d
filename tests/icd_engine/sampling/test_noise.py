"""The noise equals torch's, whatever the seed and count: saved inversions and published examples
depend on it."""

import numpy as np
import pytest
import torch

from icd_engine.sampling.noise import normal_noise


@pytest.mark.parametrize("seed", [0, 30, 10500, 2**32 - 1, 2**40 + 7])
@pytest.mark.parametrize("shape", [(1, 4, 16, 16), (1, 4, 13, 17), (17,), (16,)], ids=str)
def test_equals_torch(seed, shape):
    expected = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).numpy()
    # Both use float32 logarithms and cosines of their own: a few units in the last place of values
    # up to 5.5.
    np.testing.assert_allclose(normal_noise(seed, shape), expected, rtol=0, atol=5e-6)


def test_too_small_is_refused():
    with pytest.raises(ValueError, match="16"):
        normal_noise(0, (1, 4, 1, 3))
