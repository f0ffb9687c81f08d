"""Pictures of clients: from base64 or the folder, within limits."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from icd_engine.errors import ImageError
from icd_engine.integrations.mcp.folder import Granted
from icd_engine.integrations.mcp.pictures import Pictures
from tests.icd_engine.integrations.mcp.conftest import content, file_of
from tests.icd_engine.plain_loops import picture


@pytest.fixture
def pictures(folder) -> Pictures:
    return Pictures(Granted(folder), pixels=10_000, file_bytes=20_000)


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "PNG")
    return buffer.getvalue()


def test_three_ways_in_are_one_picture(pictures):
    data = file_of()
    text = base64.b64encode(data).decode()
    for given in ("in.png", f"data:image/png;base64,{text}", content(data)):
        image, file = pictures.read(given)
        assert image.tobytes() == picture().tobytes() and file == data


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (content(b"no picture"), "not a PNG"),
        ({"type": "image", "data": "?"}, "not base64"),
        ("data:image/png;base64,?", "not base64"),
        (content(png(101, 100)), "more than 0.01 megapixels"),
        (content(b"\0" * 20_001), "larger than 0.019"),
        (content(png(8, 8)[:-20]), "cut short"),
        ("https://example.com/a.png", "no such file"),
    ],
)
def test_what_is_refused(pictures, given, why):
    with pytest.raises(ImageError, match=why):
        pictures.read(given)


def test_a_large_file_is_refused(pictures, folder):
    (folder / "large.png").write_bytes(b"\0" * 20_001)
    with pytest.raises(ImageError, match="larger than"):
        pictures.read("large.png")


def test_a_mask_has_the_same_limits(pictures):
    assert pictures.read_mask(content(png(8, 8)), None) == png(8, 8)
    with pytest.raises(ImageError, match="the mask has more than"):
        pictures.read_mask(content(png(101, 100)), None)


def test_without_a_folder_no_file_is_named():
    for ask in (lambda: Pictures().read("in.png"), lambda: Pictures().check_output("out.png")):
        with pytest.raises(ImageError, match="no folder is granted"):
            ask()


def test_a_written_picture_says_that_a_model_made_it(pictures, folder):
    path = pictures.write(picture(), "sub/out.png", None)
    assert path == folder / "sub" / "out.png"
    assert b"compositeWithTrainedAlgorithmicMedia" in path.read_bytes()
    assert path.read_bytes() == pictures.encoded(picture(), None)
