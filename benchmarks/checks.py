"""Right before fast: differences, their limits, and what is said of a wrong result instead of a
time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

EXACT = 1e-3  # relative difference of final latents that float32 and another order of sums may make
# The same of lower precisions, TF32 among them: bounds that catch a mistake, not a figure of
# quality.
ROUNDED = {torch.float32: 0.02, torch.float16: 0.02, torch.bfloat16: 0.1}


class Refused(Exception):
    """What was to be measured is wrong, or unknown: no time is taken of it."""


def difference(got: Tensor, expected: Tensor) -> float:
    """Relative distance |got - expected| / |expected|; NaN where either holds one."""
    got = got.detach().float().cpu()
    expected = expected.detach().float().cpu()
    return float((got - expected).norm() / expected.norm().clamp_min(1e-12))


def require_equal(what: str, got: Tensor, expected: Tensor, limit: float) -> float:
    """The relative difference; Refused where it is above `limit` or no number."""
    distance = difference(got, expected)
    if not distance <= limit:
        raise Refused(
            f"{what} is off by {distance:.1e} relative, at most {limit:g} is allowed: nothing was timed"
        )
    return distance


@contextmanager
def exact_float32() -> Iterator[None]:
    """float32 without TF32 on CUDA, as long as a comparison lasts; timing uses torch's own
    defaults."""
    backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed
