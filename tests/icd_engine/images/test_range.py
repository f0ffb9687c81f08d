"""Pictures to the networks' range and back."""

import numpy as np
import pytest
from PIL import Image

from icd_engine.errors import ImageError
from icd_engine.images import psnr, to_model_range, to_pil
from tests.icd_engine.images.encoding import same

# ---- network range


def test_model_range_is_the_formula_and_comes_back_exactly(pixels: np.ndarray):
    values = to_model_range(Image.fromarray(pixels), (17, 24))
    assert (
        values.dtype == np.float32
        and values.shape == (1, 3, 24, 17)
        and values.flags["C_CONTIGUOUS"]
    )
    expected = pixels.astype(np.float64).transpose(2, 0, 1) / 127.5 - 1
    assert np.abs(values[0] - expected).max() <= 2**-23  # one rounding of x / 127.5 <= 2
    assert same(to_pil(values[0]), pixels)


def test_model_range_resizes_bicubic_to_exactly_the_size(pixels: np.ndarray):
    picture = Image.fromarray(pixels)
    expected = np.asarray(picture.resize((32, 8), Image.Resampling.BICUBIC), np.float32) / 127.5 - 1
    assert np.array_equal(to_model_range(picture, (32, 8))[0], expected.transpose(2, 0, 1))


@pytest.mark.parametrize(
    "size",
    [(0, 8), (8,), (8, -1), (8.5, 8), ("8", "8"), None, (10**5, 10**5), (np.inf, 8)],
    ids=str,
)
def test_sizes_that_are_none(size):
    with pytest.raises(ImageError, match="size must be"):
        to_model_range(Image.new("RGB", (4, 4)), size)


def test_model_range_wants_rgb():
    with pytest.raises(ImageError, match="mode L"):
        to_model_range(Image.new("L", (4, 4)), (4, 4))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_to_pil_rounds_and_clips(dtype):
    steps = np.array([-5, -1, 0.6 / 127.5 - 1, 0.4 / 127.5 - 1, 1, 5], dtype)
    picture = to_pil(np.broadcast_to(steps, (3, 1, 6)))
    assert np.asarray(picture)[0, :, 0].tolist() == [0, 0, 1, 0, 255, 255]


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.full((3, 2, 2), np.nan, np.float32), "NaN"),
        (np.full((3, 2, 2), -np.inf), "infinite"),
        (np.zeros((2, 2, 3)), "shape"),
        (np.zeros((1, 3, 2, 2)), "shape"),
        (np.zeros((3, 0, 2)), "shape"),
        (np.zeros((3, 2, 2), np.uint8), "uint8"),
    ],
    ids=["nan", "inf", "hwc", "batch", "empty", "uint8"],
)
def test_to_pil_refuses(array: np.ndarray, text: str):
    with pytest.raises(ImageError, match=text):
        to_pil(array)


# ---- differences


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
