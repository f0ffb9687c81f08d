"""Rows to be normed, in every layout."""

from collections.abc import Callable

import torch
from torch import Tensor


def contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


def channels_first(x: Tensor) -> Tensor:
    """The tokens of a contiguous map [C, H, W]."""
    return x.movedim(-1, 0).contiguous().movedim(0, -1)


def make_rows(
    shape: tuple[int, ...], dtype=torch.float32, layout: Callable = contiguous, mean: float = 0.5
):
    """x, weight, bias, eps, residual of a seeded example; float32 parameters."""
    generator = torch.Generator().manual_seed(0)
    x, residual = (torch.randn(shape, generator=generator) + mean for _ in range(2))
    weight, bias = (torch.randn(shape[-1:], generator=generator) for _ in range(2))
    return [layout(x.to(dtype)), weight, bias, 1e-5, layout(residual.to(dtype))]
