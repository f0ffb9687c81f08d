"""Every kind of picture in, and every mode of one: right pixels or one typed error."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from icd_engine.errors import ImageError
from icd_engine.images import load_image, to_model_range
from tests.icd_engine.images.encoding import FORMATS, encoded, same

# ---- kinds


@pytest.mark.parametrize("kind", ["str", "path", "bytes", "bytearray", "stream", "open file"])
def test_a_file_of_any_kind(kind: str, pixels: np.ndarray, tmp_path: Path):
    data = encoded(pixels)
    path = tmp_path / "a picture.png"
    path.write_bytes(data)
    with open(path, "rb") as file:
        given = {
            "str": str(path),
            "path": path,
            "bytes": data,
            "bytearray": bytearray(data),
            "stream": io.BytesIO(data),
            "open file": file,
        }
        assert same(load_image(given[kind]), pixels)


@pytest.mark.parametrize("file_format", FORMATS)
def test_content_decides_not_the_extension(file_format: str, pixels: np.ndarray, tmp_path: Path):
    path = tmp_path / "picture.txt"
    path.write_bytes(encoded(pixels, file_format))
    assert same(
        load_image(path), np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: x.transpose(2, 0, 1),
        lambda x: x[None],
        lambda x: x[:, ::-1][:, ::-1],
        lambda x: x.astype(np.uint16) * 257,
        lambda x: x.astype(">u2") * 257,
        lambda x: x / 255,
        # Half a step of 1/255 is four of float16's roundings at 1
        lambda x: (x / 255).astype(np.float16),
        lambda x: x.astype(np.float32) / 255 * (1 + 1e-6),
        lambda x: torch.from_numpy(x).permute(2, 0, 1),
        lambda x: torch.from_numpy(x).permute(2, 0, 1)[None] / 255,
        lambda x: torch.nn.Parameter(torch.from_numpy(x / 255).permute(2, 0, 1)),
    ],
    ids=[
        "hwc",
        "chw",
        "1hwc",
        "negative-strides",
        "uint16",
        "big-endian",
        "float64",
        "float16",
        "rounding",
        "torch",
        "torch-1chw",
        "parameter",
    ],
)
def test_arrays_and_tensors_of_every_layout(make, pixels: np.ndarray):
    assert same(load_image(make(pixels)), pixels)


def test_bfloat16_tensor_is_within_its_own_rounding(pixels: np.ndarray):
    tensor = (torch.from_numpy(pixels).permute(2, 0, 1) / 255).bfloat16()
    difference = np.asarray(load_image(tensor)).astype(int) - pixels
    assert np.abs(difference).max() <= 1  # 2^-9 relative is half a step of 255


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (1, 5, 7), (1, 1, 5, 7)], ids=str)
def test_one_channel_is_grey(shape: tuple[int, ...]):
    grey = np.arange(35, dtype=np.uint8).reshape(shape)
    assert same(load_image(grey), np.repeat(grey.reshape(5, 7, 1), 3, axis=2))
    assert same(
        load_image(torch.from_numpy(grey.reshape(1, 5, 7))),
        np.repeat(grey.reshape(5, 7, 1), 3, axis=2),
    )


def test_bool_array_is_black_and_white():
    assert same(load_image(np.array([[True, False]])), np.array([[[255] * 3, [0] * 3]]))


def test_a_tensor_is_channels_first_where_both_fit():
    tensor = torch.zeros(3, 2, 4, dtype=torch.uint8)
    assert load_image(tensor).size == (4, 2)
    assert load_image(np.zeros((3, 2, 4), np.uint8)).size == (2, 3)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.full((4, 4, 3), np.nan), "NaN"),
        (np.full((4, 4, 3), np.inf, np.float16), "infinite"),
        (np.full((4, 4, 3), -0.5), r"give \(x \+ 1\) / 2"),
        (np.full((4, 4, 3), 200.0), "give uint8"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.zeros((4, 4, 3), np.complex64), "complex64"),
        (np.full((4, 4, 3), None), "object"),
        (np.zeros((2, 4, 4, 3), np.uint8), "batch of 2"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((0, 4, 4, 3), np.uint8), "shape"),
        (np.zeros((5, 5, 2), np.uint8), "shape"),
        (np.zeros(3, np.uint8), "shape"),
        (np.array(3, np.uint8), "shape"),
        (np.broadcast_to(np.uint8(0), (8100, 8100, 3)), "64 megapixels"),
        (torch.full((3, 4, 4), float("nan")), "NaN"),
        (torch.zeros(5, 4, 3, dtype=torch.uint8), "shape"),
        (torch.zeros(3, 4, 4, device="meta"), "cannot read"),
        (torch.nn.Linear(2, 2), "cannot read"),
        ([[0, 1]], "from list"),
        (None, "from NoneType"),
        (7, "from int"),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
def test_arrays_that_say_nothing_certain_are_refused(array, text: str):
    with pytest.raises(ImageError, match=text):
        load_image(array)


# ---- modes, orientation, shape


@pytest.mark.parametrize("mode", ["RGB", "1", "L", "P", "CMYK", "YCbCr"])
def test_opaque_modes_are_what_pillow_makes_of_them(mode: str, pixels: np.ndarray):
    picture = Image.fromarray(pixels).convert(mode)
    assert same(load_image(picture), np.asarray(picture.convert("RGB")))


def test_sixteen_bit_grey_is_scaled():
    ramp = np.array([[0, 257, 32896, 65535]], np.uint16)
    expected = np.repeat(np.array([[0, 1, 128, 255]])[..., None], 3, axis=2)
    assert same(load_image(Image.fromarray(ramp)), expected)
    assert same(load_image(encoded(ramp)), expected)


def test_float_mode_is_held_to_the_unit_range():
    assert same(load_image(Image.fromarray(np.float32([[0, 1]]))), np.array([[[0] * 3, [255] * 3]]))
    with pytest.raises(ImageError, match="give uint8"):
        load_image(Image.fromarray(np.float32([[0, 255]])))


def test_a_mode_without_a_range_is_refused():
    with pytest.raises(ImageError, match="mode I "):
        load_image(Image.new("I", (2, 2)))


# What a viewer shows for each orientation of the picture [[1, 2], [3, 4], [5, 6]] (EXIF 2.3, tag
# 0x0112).
SHOWN = {
    1: [[1, 2], [3, 4], [5, 6]],
    2: [[2, 1], [4, 3], [6, 5]],
    3: [[6, 5], [4, 3], [2, 1]],
    4: [[5, 6], [3, 4], [1, 2]],
    5: [[1, 3, 5], [2, 4, 6]],
    6: [[5, 3, 1], [6, 4, 2]],
    7: [[6, 4, 2], [5, 3, 1]],
    8: [[2, 4, 6], [1, 3, 5]],
}


@pytest.mark.parametrize("orientation", [*SHOWN, 0, 9])
def test_exif_orientation_is_applied_once(orientation: int):
    stored = np.array(SHOWN[1], np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, exif=exif)
    expected = np.repeat(np.array(SHOWN.get(orientation, SHOWN[1]))[..., None], 3, axis=2)
    assert same(load_image(data), expected)
    assert same(load_image(Image.open(io.BytesIO(data))), expected)
    assert same(load_image(load_image(data)), expected)
    assert load_image(data).info == {}


def test_broken_exif_does_not_matter(pixels: np.ndarray):
    assert same(load_image(encoded(pixels, exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")), pixels)


@pytest.mark.parametrize("size", [(1, 1), (1, 4096), (4096, 1), (3, 7)], ids=str)
def test_any_aspect_is_accepted(size: tuple[int, int]):
    picture = load_image(encoded(Image.new("RGB", size, "red")))
    assert picture.size == size
    assert to_model_range(picture, (16, 8)).shape == (1, 3, 8, 16)


def test_the_callers_picture_is_left_alone(pixels: np.ndarray):
    picture = Image.fromarray(pixels)
    load_image(picture).putpixel((0, 0), (0, 0, 0))
    assert same(picture, pixels)
