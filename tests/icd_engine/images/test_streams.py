"""File objects and Pillow's pictures are read whole, and left as they were."""

from __future__ import annotations

import io
import os
import tempfile

import numpy as np
import pytest
from PIL import Image

from icd_engine.errors import ImageError
from icd_engine.images import load_image
from icd_engine.masks import read_mask
from tests.icd_engine.images.encoding import encoded, same

READERS = {"picture": load_image, "mask": read_mask}


class Pipe(io.RawIOBase):
    """Bytes that come once: a file object that cannot seek."""

    def __init__(self, data: bytes):
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, count: int = -1) -> bytes:
        return self._data.read(count)


class Reader:
    """The least that is a file object."""

    def __init__(self, data: bytes):
        self.read = io.BytesIO(data).read


@pytest.mark.parametrize("place", [0, 7, "end"])
def test_a_buffer_is_read_from_its_start_and_left_where_it_was(place, pixels: np.ndarray):
    data = encoded(pixels)
    at = len(data) if place == "end" else place
    buffer = io.BytesIO(data)
    for _ in range(2):
        buffer.seek(at)
        assert same(load_image(buffer), pixels) and buffer.tell() == at
    assert Image.open(buffer).size == Image.fromarray(pixels).size


def test_a_buffer_that_was_just_written_is_a_picture(pixels: np.ndarray):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    assert same(load_image(buffer), pixels)
    with tempfile.SpooledTemporaryFile() as spooled:
        Image.fromarray(pixels).save(spooled, "PNG")
        assert same(load_image(spooled), pixels)


@pytest.mark.parametrize("name", READERS)
def test_masks_are_read_as_pictures_are(name: str):
    buffer = io.BytesIO()
    Image.fromarray(np.tri(8, dtype=np.uint8) * 255).save(buffer, "PNG")
    first, again = (np.asarray(READERS[name](buffer)) for _ in range(2))
    assert np.array_equal(first, again) and buffer.tell() == len(buffer.getvalue())


@pytest.mark.parametrize("kind", [Pipe, Reader])
def test_what_cannot_seek_is_read_from_where_it_is(kind, pixels: np.ndarray):
    stream = kind(b"before" + encoded(pixels))
    stream.read(6)
    assert same(load_image(stream), pixels)


def test_a_pipe_of_the_system(pixels: np.ndarray):
    out, into = os.pipe()
    with os.fdopen(out, "rb") as reading, os.fdopen(into, "wb") as writing:
        writing.write(encoded(pixels[:4, :4]))
        writing.close()
        assert same(load_image(reading), pixels[:4, :4])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK"])
def test_a_pillow_picture_is_left_as_it_was(mode: str, pixels: np.ndarray):
    picture = Image.fromarray(pixels).convert(mode)
    picture.info["note"] = "kept"
    before = (picture.mode, picture.size, dict(picture.info), picture.tobytes())
    load_image(picture).paste("white", (0, 0, 4, 4))
    read_mask(picture)
    assert (picture.mode, picture.size, dict(picture.info), picture.tobytes()) == before
    assert np.array_equal(load_image(picture), load_image(picture.copy()))


def test_a_picture_that_was_opened_and_not_read_yet(pixels: np.ndarray):
    """Of a buffer that goes on to be used."""
    buffer = io.BytesIO(encoded(pixels))
    opened = Image.open(buffer)
    assert same(load_image(buffer), pixels) and same(load_image(opened), pixels)
    assert same(load_image(opened), pixels) and not buffer.closed
    opened.load()
    assert same(opened, pixels)


@pytest.mark.parametrize("name", READERS)
def test_errors_say_picture_or_mask(name: str):
    broken = encoded(Image.new("L", (8, 8)))[:-20]
    closed = io.BytesIO()
    closed.close()
    given = {
        f"the {name} file is empty": b"",
        f"not a PNG, .* BMP {name}": b"hello",
        f"the {name} is damaged": broken,
        f"the {name} is missing, no such file: 'nowhere.png'": "nowhere.png",
        f"download the {name}": "http://example.org/a.png",
        f"cannot read the file object of the {name}": closed,
        f"the file object of the {name} does not give bytes": io.StringIO("text"),
        f"cannot read a {name} from int": 3,
    }
    for text, value in given.items():
        with pytest.raises(ImageError, match=text):
            READERS[name](value)
