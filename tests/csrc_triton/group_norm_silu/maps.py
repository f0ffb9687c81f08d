"""Maps to be normed, in every layout."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# B, channels of x, channels of skip, H, W, groups. Groups of 10, 30 and 80 channels as Stable
# Diffusion's, which fill no power of 2; odd sizes; borders of x and skip inside a group; the last
# ones are too large for one launch, or for one reading.
SHAPES = {
    "10-deep": (2, 40, 0, 5, 7, 4),
    "10-deep-straddling": (1, 36, 24, 9, 13, 6),
    "30-deep-straddling": (2, 47, 43, 3, 5, 3),
    "80-deep-straddling": (1, 100, 60, 4, 4, 2),
    "one-group": (1, 96, 32, 8, 8, 1),
    "one-channel-groups": (1, 4, 3, 5, 3, 7),
    "one-pixel": (2, 20, 12, 1, 1, 4),
    "one-line": (1, 8, 4, 1, 33, 3),
    "one-column": (1, 8, 4, 33, 1, 3),
    "two-launches": (1, 600, 0, 5, 17, 1),
    "two-launches-straddling": (1, 400, 200, 5, 17, 1),
    "read-twice-straddling": (1, 400, 200, 5, 7, 2),
}


def contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def sliced(x: Tensor) -> Tensor:
    """Gaps along every axis, as a view into something larger has them."""
    return F.pad(x, (1, 2, 1, 0, 2, 3))[:, 2 : x.shape[1] + 2, 1:, 1 : x.shape[3] + 1]


def make_maps(
    shape: tuple[int, ...], dtype=torch.float32, layout: Callable = channels_last, mean: float = 0.5
):
    """x, weight, bias, groups, eps, skip of a seeded example; float32 parameters."""
    rows, *channels, height, width, groups = shape
    generator = torch.Generator().manual_seed(0)
    x, skip = (
        layout((torch.randn(rows, c, height, width, generator=generator) + mean).to(dtype))
        for c in channels
    )
    weight, bias = (torch.randn(sum(channels), generator=generator) for _ in range(2))
    return [x, weight, bias, groups, 1e-5, skip if channels[1] else None]
