"""Files that are damaged, foreign or huge are refused in one typed error."""

import io
import os
import re
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from icd_engine.errors import ImageError
from icd_engine.images import load_image
from tests.icd_engine.images.encoding import FORMATS, encoded, same


@pytest.mark.parametrize("point", range(10))
@pytest.mark.parametrize("file_format", FORMATS)
def test_a_truncated_file_is_refused(file_format: str, point: int, pixels: np.ndarray):
    data = encoded(pixels, file_format)
    with pytest.raises(ImageError, match=r"damaged|empty"):
        load_image(data[: len(data) * point // 10])


@pytest.mark.parametrize("missing", [1, 4, 12, 20])
@pytest.mark.parametrize("file_format", FORMATS)
def test_a_file_that_lacks_its_last_bytes_is_refused(
    file_format: str, missing: int, pixels: np.ndarray
):
    with pytest.raises(ImageError, match="damaged"):
        load_image(encoded(pixels, file_format)[:-missing])


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


def jpeg_header(width: int, height: int) -> bytes:
    data = encoded(Image.new("RGB", (8, 8)), "JPEG")
    start = data.index(b"\xff\xc0") + 5
    return data[:start] + struct.pack(">HH", height, width) + data[start + 4 :]


def webp_header(width: int, height: int) -> bytes:
    body = encoded(Image.new("RGB", (8, 8)), "WEBP")[12:]
    canvas = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"VP8X" + struct.pack("<II", 10, 0) + canvas + body
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


@pytest.mark.parametrize("as_error", [False, True], ids=["warnings shown", "warnings are errors"])
@pytest.mark.parametrize("size", [(8000, 8001), (10_000, 10_000), (60_000, 60_000)], ids=str)
@pytest.mark.parametrize("header", [png_header, jpeg_header])
def test_a_header_bomb_is_refused_before_decoding(header, size: tuple[int, int], as_error: bool):
    with warnings.catch_warnings(), pytest.raises(ImageError, match="64 megapixels"):
        warnings.simplefilter("error" if as_error else "ignore")
        load_image(header(*size))


def test_a_webp_header_bomb_is_refused():
    with pytest.raises(ImageError, match=r"megapixels|damaged"):
        load_image(webp_header(16_000, 16_000))


def test_too_large_files_are_not_read_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ICD_MAX_BYTES", str(2**20))
    path = tmp_path / "large.png"
    with open(path, "wb") as file:
        file.truncate(2**22)
    for large in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        with pytest.raises(ImageError, match="larger than 1 MiB"):
            load_image(large)


def test_limits_are_settings(pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    data = encoded(pixels)
    for name, most in (("PIXELS", pixels[..., 0].size), ("BYTES", len(data))):
        monkeypatch.setenv(f"ICD_MAX_{name}", str(most))
        assert load_image(data).size == (17, 24)
        monkeypatch.setenv(f"ICD_MAX_{name}", str(most - 1))
        with pytest.raises(ImageError, match=f"ICD_MAX_{name}"):
            load_image(data)
        for wrong in ("many", "-1", "0", "1e6"):
            monkeypatch.setenv(f"ICD_MAX_{name}", wrong)
            with pytest.raises(ImageError, match="whole number"):
                load_image(data)
        monkeypatch.delenv(f"ICD_MAX_{name}")


def test_formats_that_keep_every_pixel(pixels: np.ndarray):
    for file_format in ("PNG", "BMP", "TIFF"):
        assert same(load_image(encoded(pixels, file_format)), pixels)
    few = Image.fromarray(pixels).quantize(64)
    assert same(load_image(encoded(few, "GIF")), np.asarray(few.convert("RGB")))


def test_an_avif_is_read():
    smooth = Image.radial_gradient("L").resize((32, 24)).convert("RGB")
    read = load_image(encoded(smooth, "AVIF", quality=95))
    assert np.abs(np.asarray(read).astype(int) - np.asarray(smooth)).max() <= 12


def test_a_heic_needs_pillow_heif_and_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as where it is not installed
    with pytest.raises(ImageError, match=r"HEIC picture needs pillow-heif .*icd-engine\[heic\]"):
        load_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")


def test_a_heic_is_read_where_pillow_heif_is():
    heif = pytest.importorskip("pillow_heif")
    smooth = Image.radial_gradient("L").resize((64, 48)).convert("RGB")
    buffer = io.BytesIO()
    heif.from_pillow(smooth).save(buffer, quality=95)
    read = load_image(buffer.getvalue())
    assert np.abs(np.asarray(read).astype(int) - np.asarray(smooth)).max() <= 12


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"%PDF-1.7 ...", "a PDF: save the page"),
        (b"%!PS-Adobe-3.0 EPSF", "PostScript"),
        (b"8BPS\0\1", "Photoshop file"),
        (b"\xff\x0a....", "JPEG XL"),
        (b"\0\0\0\x18ftypcrx ....", "camera's raw file"),
        (b"\0\0\0\x18ftypisom....", "a film: save one frame"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "a web page"),
        (b"PK\x03\x04....", "a ZIP archive"),
        (b"\x89PNG\r\n\x1a\n....", "a damaged PNG picture"),
        (b"II*\0........", "a damaged TIFF picture"),
        (b"hello, this is no picture", "not a PNG, JPEG, WEBP"),
        (b"P6 1 1 255 abc", "not a PNG, JPEG, WEBP"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_refusal_says_what_was_found(data: bytes, found: str):
    with pytest.raises(ImageError, match=found):
        load_image(data)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_read_with_a_warning(file_format: str):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    lossless = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **lossless)
    later = Image.open(io.BytesIO(data))
    later.seek(2)
    for picture in (data, later):
        with pytest.warns(UserWarning, match="3 frames: the first"):
            assert same(load_image(picture), np.asarray(frames[0]))


def test_a_phones_jpeg_with_a_preview_behind_it_is_no_animation(pixels: np.ndarray):
    picture = Image.fromarray(pixels)
    data = encoded(picture, "MPO", save_all=True, append_images=[picture.resize((4, 4))])
    assert load_image(data).size == picture.size


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (b"", "empty"),
        (b"hello, this is no picture", "not a PNG"),
        ("no/such/picture.png", "no such file: 'no/such/picture.png'"),
        ("zero\0byte.png", "no such file"),
        (".", r"'\.' is a folder"),
        ("x" * 5000, "no such file"),
        ("http://example.org/a.png", "URLs are not fetched"),
        ("HTTPS://example.org/a.png", "URLs are not fetched"),
        ("file:///etc/hostname", "URLs are not fetched"),
        ("data:image/png;base64,AAAA", "URLs are not fetched"),
        (io.StringIO("text"), "binary mode"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_sources_that_are_no_picture(source, text: str):
    with pytest.raises(ImageError, match=text):
        load_image(source)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
@pytest.mark.parametrize("named", [True, False], ids=["named", "/dev/fd"])
def test_a_pipe_is_read_like_a_file(tmp_path, pixels: np.ndarray, named: bool):
    data = encoded(pixels)
    ours = None
    if named:
        path = str(tmp_path / "pipe")
        os.mkfifo(path)
        writer = threading.Thread(target=lambda: Path(path).write_bytes(data))
    else:
        ours, theirs = os.pipe()
        path = f"/dev/fd/{ours}"

        def write() -> None:
            with open(theirs, "wb") as pipe:
                pipe.write(data)

        writer = threading.Thread(target=write)
    writer.start()
    assert np.array_equal(np.asarray(load_image(path)), pixels)
    writer.join()
    if ours is not None:
        os.close(ours)


def test_a_stream_that_fails_and_a_closed_picture(pixels: np.ndarray):
    closed = io.BytesIO(b"x")
    closed.close()
    with pytest.raises(ImageError, match="cannot read the file object"):
        load_image(closed)
    picture = Image.open(io.BytesIO(encoded(pixels)))
    picture.close()
    with pytest.raises(ImageError, match="damaged"):
        load_image(picture)


def picture_or_fixed_text(data: bytes) -> None:
    """The whole promise for arbitrary bytes: an RGB picture, or one line that leaks nothing of
    Pillow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert load_image(data).mode == "RGB"
        except ImageError as error:
            assert not re.search(r"0x|BytesIO|PIL|\n", str(error))
            assert error.__cause__ is None and (
                error.__suppress_context__ or error.__context__ is None
            )


STARTS = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\x40\0\0\0WEBPVP8 ", b"GIF89a"]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(STARTS), st.binary(max_size=300))
def test_random_bytes(start: bytes, rest: bytes):
    picture_or_fixed_text(start + rest)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_flipped_bytes(file_format: str, changes: list[tuple[int, int]]):
    data = bytearray(
        encoded(Image.radial_gradient("L").resize((16, 16)).convert("RGB"), file_format)
    )
    for place, value in changes:
        data[place % len(data)] = value
    picture_or_fixed_text(bytes(data))
