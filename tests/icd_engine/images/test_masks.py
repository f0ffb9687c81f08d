"""Masks of every kind: right values or one typed error."""

import numpy as np
import pytest
import torch
from PIL import Image

from icd_engine.errors import ImageError
from icd_engine.images import load_mask
from tests.icd_engine.images.encoding import encoded


@pytest.fixture
def mask() -> np.ndarray:
    """bool [6, 4], the lower right part may change."""
    return np.add.outer(np.arange(6), np.arange(4)) > 4


@pytest.mark.parametrize(
    "make",
    [
        lambda m: m,
        lambda m: m.astype(np.uint8),
        lambda m: m.astype(np.uint8) * 255,
        lambda m: m.astype(np.int64),
        lambda m: m.astype(np.uint16) * 65535,
        lambda m: m.astype(np.float16),
        lambda m: m[..., None],
        lambda m: m[None, None],
        lambda m: torch.from_numpy(m),
        lambda m: torch.from_numpy(m)[None].float(),
        lambda m: Image.fromarray(m),
        lambda m: Image.fromarray(m.astype(np.uint8) * 255).convert("RGB"),
        lambda m: Image.merge(
            "LA", [Image.new("L", (4, 6), 255), Image.fromarray(m.astype(np.uint8) * 255)]
        ),
        lambda m: encoded(m.astype(np.uint8) * 255),
    ],
    ids=[
        "bool",
        "uint8-01",
        "uint8",
        "int64-01",
        "uint16",
        "float16",
        "hw1",
        "11hw",
        "torch",
        "torch-float",
        "pil-1",
        "pil-rgb",
        "brush-layer",
        "png",
    ],
)
def test_masks_of_every_kind(make, mask: np.ndarray):
    values = load_mask(make(mask), (4, 6))
    assert values.dtype == np.float32 and np.array_equal(values, mask)


def test_soft_masks_keep_their_values():
    soft = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(load_mask(soft, (4, 3)), soft)


def test_a_shrunk_mask_is_the_share_of_each_cell(mask: np.ndarray):
    expected = mask.reshape(3, 2, 2, 2).mean(axis=(1, 3))
    assert np.allclose(load_mask(mask, (2, 3)), expected, rtol=0, atol=1e-6)


def test_an_enlarged_mask_is_bilinear_and_within_range(mask: np.ndarray):
    values = load_mask(mask, (9, 17))
    assert values.shape == (17, 9) and values.min() == 0 and values.max() == 1
    assert np.array_equal(load_mask(np.zeros((3, 3), bool), (8, 8)), np.zeros((8, 8)))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.zeros((4, 4, 3), np.uint8), "1 channel, got shape"),
        (np.zeros(4, bool), "mask is"),
        (np.zeros((2, 4, 4, 1), bool), "batch of 2"),
        (np.full((4, 4), 2), "mask array holds"),
        (np.full((4, 4), -1), "mask array holds"),
        (np.full((4, 4), 1.5), "mask floats"),
        (np.full((4, 4), np.nan), "NaN"),
        ("no/such/mask.png", "no such file"),
        (3, "cannot read a mask"),
    ],
    ids=["channels", "vector", "batch", "int", "negative", "range", "nan", "missing", "int-value"],
)
def test_masks_that_are_refused(value, text: str):
    with pytest.raises(ImageError, match=text):
        load_mask(value, (4, 4))
