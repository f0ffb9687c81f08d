"""Pictures and masks: random bytes, real files with something wrong in them, arrays of every
kind."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw

from icd_engine.images import load_image, read_picture
from icd_engine.masks import load_mask
from icd_engine.saving import image_bytes
from tests.icd_engine.images import profiles

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "I", "La", "YCbCr")
WEBP = b"RIFF\x40\0\0\0WEBPVP8"
STARTS = (
    b"",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    WEBP + b" ",
    WEBP + b"X",
    WEBP + b"L",
    b"GIF89a",
)
# In place of lengths and sizes
NUMBERS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\x10\0", b"\x7f\0\0\1")


def picture_files() -> list[bytes]:
    """Small files of every format and of what the formats can hold: palettes, metadata,
    progression, no loss."""
    drawn = Image.radial_gradient("L").resize((23, 17)).convert("RGB")
    ImageDraw.Draw(drawn).rectangle((3, 3, 9, 12), fill=(200, 20, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    files = []
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        made = (
            Image.fromarray(np.asarray(drawn.convert("L"), np.uint16))
            if mode == "I;16"
            else drawn.convert(mode)
        )
        files.append((made, "PNG", {}))
    files += [
        (drawn, "PNG", {"exif": exif, "compress_level": 0}),
        (drawn, "JPEG", {}),
        (drawn, "JPEG", {"exif": exif}),
    ]
    files += [
        (drawn, "JPEG", {"progressive": True}),
        (drawn.convert("CMYK"), "JPEG", {}),
        (drawn, "WEBP", {}),
    ]
    files += [(drawn.convert("RGBA"), "WEBP", {"lossless": True, "exif": exif})]
    files += [(drawn, kind, {}) for kind in ("TIFF", "BMP", "AVIF")]
    files += [(drawn.convert("P"), "GIF", {"save_all": True, "append_images": [drawn]})]
    files += [
        (drawn, "PNG", {"icc_profile": profiles.P3, "dpi": (300, 300)}),
        (drawn.convert("L"), "TIFF", {"icc_profile": profiles.grey(1.0)}),
        (drawn.convert("CMYK"), "JPEG", {"icc_profile": profiles.cmyk()}),
    ]
    encoded = []
    for made, kind, options in files:
        buffer = io.BytesIO()
        made.save(buffer, kind, **options)
        encoded.append(buffer.getvalue())
    return encoded


FILES = picture_files()


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """A real file with bytes changed, taken out, put in, repeated or cut off; lengths and sizes are
    bytes as well."""
    data = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["change", "header", "remove", "insert", "repeat", "cut"]))
        if kind == "change":
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == "header":
            place = draw(st.integers(0, 40))
            data[place : place + 4] = draw(st.sampled_from(NUMBERS))
        elif kind == "remove":
            del data[at : at + draw(st.integers(1, 30))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=30))
        elif kind == "repeat":
            data[at:at] = data[at : at + draw(st.integers(1, 60))]
        else:
            del data[at:]
    return bytes(data)


SHAPES = st.one_of(
    hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5),
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.sampled_from([1, 2, 3, 4])),
    st.tuples(
        st.sampled_from([0, 1, 2]), st.sampled_from([1, 3, 4]), st.integers(1, 6), st.integers(1, 6)
    ),
)
KINDS = st.one_of(
    hnp.scalar_dtypes(),
    hnp.unicode_string_dtypes(max_len=2),
    st.sampled_from(["u1", "u2", "f2", "f4", "f8", "?", ">u2", ">f4", "O", "V4", "g", "G"]).map(
        np.dtype
    ),
    st.just(np.dtype([("r", "f4"), ("g", "f4")])),
)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Any shape and dtype; values of the dtype, in [0, 1], or with NaN and infinity among them."""
    kind, shape = draw(KINDS), draw(SHAPES)
    if kind.kind == "f" and draw(st.booleans()):
        values = draw(hnp.arrays(np.float64, shape, elements=st.floats(0, 1)))
        if values.size and draw(st.booleans()):
            odd = draw(st.sampled_from([np.nan, np.inf, -np.inf, 1e-9, 1.1]))
            values.flat[draw(st.integers(0, values.size - 1))] = odd
        with np.errstate(over="ignore"):
            return values.astype(kind)
    if kind.kind in "OVgG":
        return np.zeros(shape, dtype=kind)
    return draw(hnp.arrays(kind, shape))


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    values = draw(
        arrays().filter(lambda array: array.dtype.kind in "biuf" and array.dtype.isnative)
    )
    with np.errstate(over="ignore"):
        values = values.astype(np.float32) if values.dtype.itemsize > 8 else values
    tensor = torch.from_numpy(np.array(values))
    change = draw(
        st.sampled_from(
            ["none", "bfloat16", "grad", "meta", "sparse", "strided", "complex", "float8"]
        )
    )
    if change == "bfloat16":
        return tensor.to(torch.bfloat16)
    if change == "float8":
        return tensor.to(torch.float8_e4m3fn)
    if change == "complex":
        return tensor.to(torch.complex64)
    if change == "meta":
        return tensor.to("meta")
    if change == "sparse" and tensor.is_floating_point():
        return tensor.to_sparse()
    if change == "strided":
        return tensor.expand(2, *tensor.shape)[0]
    return tensor.requires_grad_() if change == "grad" and tensor.is_floating_point() else tensor


@st.composite
def pil_pictures(draw: st.DrawFn) -> Image.Image:
    picture = Image.new(
        draw(st.sampled_from(MODES)), draw(st.tuples(st.integers(0, 40), st.integers(0, 40)))
    )
    transparency = draw(st.sampled_from([None, 0, 300, (1, 2, 3), b"\1", "x"]))
    if transparency is not None:
        picture.info["transparency"] = transparency
    if draw(st.booleans()):
        picture.info["exif"] = draw(st.binary(max_size=30))
    return picture


class Stream:
    """A file object that gives what it was told to."""

    def __init__(self, given: Any):
        self.given = given

    def read(self, size: int) -> Any:
        if isinstance(self.given, Exception):
            raise self.given
        return self.given


OTHERS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.integers(0, 255), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.builds(object),
    st.one_of(st.binary(max_size=20), st.text(max_size=5), st.none(), st.just(OSError("gone"))).map(
        Stream
    ),
    st.sampled_from(
        [
            "/",
            "/dev/null",
            "http://example.org/a.png",
            "data:image/png;base64,",
            "\0",
            "~",
            "a" * 5000,
        ]
    ),
)
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def check_picture(picture: Image.Image | None) -> None:
    if picture is not None:
        assert picture.mode == "RGB" and min(picture.size) > 0 and picture.info == {}
        picture.load()


def check_mask(mask: np.ndarray | None, size: tuple[int, int]) -> None:
    if mask is not None:
        assert mask.shape == size[::-1] and mask.dtype == np.float32
        assert np.isfinite(mask).all() and mask.min() >= 0 and mask.max() <= 1


@given(st.sampled_from(STARTS), st.binary(max_size=300))
def test_random_bytes(tried, start, rest):
    check_picture(tried("random bytes as a picture", lambda: load_image(start + rest)))


@given(damaged_files(), SIZES)
def test_damaged_files(tried, data, size):
    check_picture(tried("damaged picture files", lambda: load_image(data)))
    check_mask(tried("damaged files as a mask", lambda: load_mask(data, size)), size)


@given(
    damaged_files(),
    st.dictionaries(st.sampled_from(["exif", "xmp", "iptc", "comment"]), st.binary(max_size=60)),
    st.sampled_from([".png", ".jpg", ".webp", ".avif"]),
)
def test_metadata(tried, data, odd, suffix):
    """Whatever a damaged file says, or anything at all, in a picture that is saved with it."""

    def saved() -> bytes:
        picture = read_picture(data)
        return image_bytes(picture, f"a{suffix}", about={**picture.info, **odd})

    done = tried("damaged files saved with their metadata, or odd ones", saved)
    check_picture(None if done is None else load_image(done))


@given(st.one_of(arrays(), tensors()), SIZES)
def test_arrays(tried, values, size):
    check_picture(tried("arrays and tensors of every dtype and shape", lambda: load_image(values)))
    check_mask(tried("arrays and tensors as a mask", lambda: load_mask(values, size)), size)


@given(st.one_of(pil_pictures(), OTHERS), SIZES)
def test_other_objects(tried, value, size):
    check_picture(tried("PIL pictures and objects that are no picture", lambda: load_image(value)))
    check_mask(tried("the same as a mask", lambda: load_mask(value, size)), size)


@given(
    st.one_of(
        OTHERS, st.lists(st.one_of(st.integers(), st.floats(), st.none()), min_size=1, max_size=3)
    )
)
def test_mask_sizes(tried, size):
    tried("sizes of a mask", lambda: load_mask(np.ones((4, 4)), size))
