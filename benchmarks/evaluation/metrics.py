"""Metrics of pictures, uint8 [H, W, 3]; masks [H, W] are true where an edit may change something.

SSIM is torchmetrics' (extra `metrics`); what needs it, or weights that were not given, is None and
shown as n/a.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from icd_engine import images
from training.world.quality import nearer_share

MOST_DB = 90.0


def mse(one: np.ndarray, other: np.ndarray, where: np.ndarray | None = None) -> float:
    """Mean squared error of values in [0, 1], over the pixels `where` is true."""
    squared = ((one.astype(np.float64) - other) / 255) ** 2
    return float((squared if where is None else squared[where]).mean())


def psnr(one: np.ndarray, other: np.ndarray, where: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB; equal pictures have 90."""
    return min(images.psnr(one, other, where), MOST_DB)


def masked(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture with what may change in black: PIE-Bench takes its background metrics over this
    whole frame."""
    return np.where(mask[..., None], 0, picture).astype(np.uint8)


def ssim(one: np.ndarray, other: np.ndarray) -> float | None:
    """Structural similarity, None without torchmetrics."""
    function = _ssim()
    if function is None:
        return None
    pair = (
        torch.from_numpy(x.astype(np.float32) / 255).permute(2, 0, 1)[None] for x in (one, other)
    )
    return float(function(*pair, data_range=1.0))


@lru_cache(1)
def _ssim() -> Callable[..., Any] | None:
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError:
        return None
    return structural_similarity_index_measure


def outside_equal(edited: np.ndarray, picture: np.ndarray, mask: np.ndarray) -> float:
    """Share of the pixels outside of the mask that are the source's, to the last bit."""
    return float((edited == picture).all(axis=-1)[~mask].mean())


changed_share = nearer_share
