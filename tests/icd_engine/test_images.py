"""Every kind of picture in: right pixels or one typed error with a fixed text, never anything
half-written."""

import io
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from icd_engine import images
from icd_engine.errors import ImageError
from icd_engine.images import load_image, load_mask, psnr, to_model_range, to_pil

FORMATS = ["PNG", "JPEG", "WEBP"]


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """uint8 [24, 17, 3]: odd, not square, every value random."""
    return np.random.default_rng(0).integers(0, 256, (24, 17, 3), dtype=np.uint8)


def encoded(picture: Image.Image | np.ndarray, file_format: str = "PNG", **options) -> bytes:
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def same(picture: Image.Image, expected: np.ndarray) -> bool:
    return picture.mode == "RGB" and np.array_equal(np.asarray(picture), expected)


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
        (np.broadcast_to(np.uint8(0), (6000, 6000, 3)), "32 megapixels"),
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


@pytest.mark.parametrize("mode", ["LA", "PA", "RGBA", "RGBa"])
def test_transparency_lies_on_white(mode: str):
    grey = Image.fromarray(np.array([[100, 100, 100]], np.uint8))
    picture = Image.merge("LA", [grey, Image.fromarray(np.array([[255, 0, 128]], np.uint8))])
    picture = picture if mode == "LA" else picture.convert("RGBA").convert(mode)
    values = np.asarray(load_image(picture))[0, :, 0].astype(int)
    assert np.abs(values - [100, 255, 177]).max() <= 1  # 100 * 128/255 + 255 * 127/255 = 177.2


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_a_transparent_colour_of_png_lies_on_white(mode: str):
    picture = Image.new(mode, (3, 2), 0)
    data = encoded(picture, transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert same(load_image(data), np.full((2, 3, 3), 255))


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


# ---- damaged, foreign and huge files


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
@pytest.mark.parametrize("size", [(8000, 4001), (10_000, 10_000), (60_000, 60_000)], ids=str)
@pytest.mark.parametrize("header", [png_header, jpeg_header])
def test_a_header_bomb_is_refused_before_decoding(header, size: tuple[int, int], as_error: bool):
    with warnings.catch_warnings(), pytest.raises(ImageError, match="32 megapixels"):
        warnings.simplefilter("error" if as_error else "ignore")
        load_image(header(*size))


def test_a_webp_header_bomb_is_refused():
    with pytest.raises(ImageError, match=r"megapixels|damaged"):
        load_image(webp_header(16_000, 16_000))


def test_too_large_files_are_not_read_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 2**20)
    path = tmp_path / "large.png"
    with open(path, "wb") as file:
        file.truncate(2**22)
    for large in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        with pytest.raises(ImageError, match="larger than 1 MiB"):
            load_image(large)


@pytest.mark.parametrize("file_format", ["GIF", "BMP", "TIFF", "PPM", "EPS", "PDF"])
def test_other_formats_are_refused(file_format: str, pixels: np.ndarray):
    with pytest.raises(ImageError, match="not a PNG, JPEG or WEBP"):
        load_image(encoded(pixels, file_format))


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_animations_are_refused(file_format: str):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="not a PNG" if file_format == "GIF" else "animated"):
        load_image(data)
    with pytest.raises(ImageError, match="animated"):
        load_image(Image.open(io.BytesIO(data)))


def test_a_phones_jpeg_with_a_preview_behind_it_is_no_animation(pixels: np.ndarray):
    picture = Image.fromarray(pixels)
    data = encoded(picture, "MPO", save_all=True, append_images=[picture.resize((4, 4))])
    assert load_image(data).size == picture.size


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (b"", "empty"),
        (b"hello, this is no picture", "not a PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG"),
        ("no/such/picture.png", "no such file: 'no/such/picture.png'"),
        ("zero\0byte.png", "no such file"),
        (".", "no such file"),
        ("x" * 5000, "no such file"),
        ("http://example.org/a.png", "URLs are not fetched"),
        ("HTTPS://example.org/a.png", "URLs are not fetched"),
        ("file:///etc/hostname", "URLs are not fetched"),
        ("data:image/png;base64,AAAA", "URLs are not fetched"),
        (io.StringIO("text"), "binary mode"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_sources_that_are_no_picture(source, text: str):
    with pytest.raises(ImageError, match=text):
        load_image(source)


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


# ---- masks


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
