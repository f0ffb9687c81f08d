"""Gaussian noise from a seed: torch's CPU generator in numpy, so that every runner and device draws
the same."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BLOCK = 16  # torch fills 16 values at a time: 8 radii, 8 angles


def normal_noise(seed: int, shape: Sequence[int]) -> NDArray[np.float32]:
    """What `torch.randn(shape, generator=torch.Generator().manual_seed(seed))` gives, to float32
    rounding.

    Mersenne Twister, 24 bits to a uniform number, Box-Muller on pairs eight apart; if the count is
    no multiple of 16, the last 16 values are drawn anew. At least 16 values (below that torch draws
    differently): ValueError.
    """
    count = int(np.prod(shape))
    if count < BLOCK:
        raise ValueError(f"noise of shape {tuple(shape)} has less than {BLOCK} values")
    generator = np.random.RandomState(seed & 0xFFFFFFFF)
    whole = count // BLOCK * BLOCK
    tail = BLOCK if whole < count else 0
    bits = generator.randint(0, 2**32, count + tail, dtype=np.uint32)
    uniform = (bits & 0xFFFFFF).astype(np.float32) / np.float32(2**24)
    noise = np.empty(count, dtype=np.float32)
    noise[:whole] = _box_muller(uniform[:whole])
    if tail:
        noise[-BLOCK:] = _box_muller(uniform[count:])
    return noise.reshape(tuple(shape))


def _box_muller(uniform: NDArray[np.float32]) -> NDArray[np.float32]:
    first, second = np.moveaxis(uniform.reshape(-1, 2, BLOCK // 2), 1, 0)
    radius = np.sqrt(-2.0 * np.log(1.0 - first))
    angle = np.float32(2.0 * np.pi) * second
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()
