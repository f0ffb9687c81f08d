"""A picture of noise."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """uint8 [24, 17, 3]: odd, not square, every value random."""
    return np.random.default_rng(0).integers(0, 256, (24, 17, 3), dtype=np.uint8)
