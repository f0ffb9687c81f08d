"""Transparency is kept beside colours that go on under it."""

import numpy as np
import pytest
from PIL import Image

from icd_engine.errors import ImageError
from icd_engine.images import load_image, read_picture
from tests.icd_engine.images.encoding import encoded, same


def with_holes(pixels: np.ndarray) -> Image.Image:
    """The lower half is transparent and black, a row between half so."""
    picture = Image.fromarray(pixels).convert("RGBA")
    values = np.array(picture)
    values[12:] = 0
    values[11, :, 3] = 128
    return Image.fromarray(values)


@pytest.mark.parametrize("mode", ["LA", "PA", "RGBA", "RGBa"])
def test_alpha_stays_and_visible_colours_too(mode: str):
    grey = Image.fromarray(np.array([[100, 100, 100]], np.uint8))
    picture = Image.merge("LA", [grey, Image.fromarray(np.array([[255, 0, 128]], np.uint8))])
    picture = picture if mode == "LA" else picture.convert("RGBA").convert(mode)
    read = np.asarray(read_picture(picture))
    assert read[0, :, 3].tolist() == [255, 0, 128]
    assert np.abs(read[0, :, :3].astype(int) - 100).max() <= 1  # under the hole, too


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_a_transparent_colour_of_png_is_a_hole(mode: str):
    picture = Image.new(mode, (3, 2), 0)
    data = encoded(picture, transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert np.array_equal(read_picture(data).getchannel("A"), np.zeros((2, 3)))
    assert same(load_image(data), np.full((2, 3, 3), 255))  # nothing of it is to be seen


def test_networks_see_edge_colours_go_on(pixels: np.ndarray):
    smooth = np.asarray(Image.linear_gradient("L").resize((17, 24)).convert("RGB")) // 2 + 60
    seen = np.asarray(load_image(with_holes(smooth))).astype(int)
    assert np.array_equal(seen[:12], smooth[:12])
    edge = smooth[11].astype(int).mean()
    assert np.abs(seen[12:] - edge).max() <= 25  # of the black that lies there: 60 and more


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (300, 7), (64, 64)])
def test_one_visible_pixel_fills_any_picture(shape: tuple[int, int]):
    values = np.zeros((*shape, 4), np.uint8)
    values[0, 0] = (200, 40, 10, 255)
    seen = np.asarray(load_image(values)).astype(int)
    assert np.abs(seen - [200, 40, 10]).max() <= 2


def test_an_opaque_alpha_is_none(pixels: np.ndarray):
    assert read_picture(Image.fromarray(pixels).convert("RGBA")).mode == "RGB"
    assert same(read_picture(Image.fromarray(pixels).convert("RGBA")), pixels)


def test_what_is_read_may_be_read_again(pixels: np.ndarray):
    once = read_picture(with_holes(pixels))
    again = read_picture(once)
    assert np.array_equal(once, again) and once.info == again.info


@pytest.mark.parametrize("said", [b"\1", "x", (1, 2, 3), object()], ids=["bytes", "text", "3", "?"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_transparent_colour_that_is_none_is_one_error(mode: str, said):
    picture = Image.new(mode, (2, 2))
    picture.info["transparency"] = said
    try:
        assert read_picture(picture).size == (2, 2)
    except ImageError as error:
        assert f"mode {mode} cannot be read" in str(error)
