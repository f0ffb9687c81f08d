"""Colours look in sRGB as they did by the profile of their file."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from icd_engine.colour import srgb_profile
from icd_engine.images import load_image, read_picture
from tests.icd_engine.images import profiles
from tests.icd_engine.images.encoding import encoded, same

SRGB = ImageCms.createProfile("sRGB")
WIDE = {name: getattr(profiles, name) for name in ("P3", "ADOBE", "PROPHOTO", "LINEAR")}


def opened(data: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(io.BytesIO(data))


def scene() -> Image.Image:
    """Colours that all these spaces have, changing smoothly."""
    colours = np.random.default_rng(3).integers(30, 226, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((48, 40), Image.Resampling.BILINEAR)


def lab(picture: Image.Image, profile=SRGB, mode: str = "RGB") -> np.ndarray:
    transform = ImageCms.buildTransform(
        profile, ImageCms.createProfile("LAB"), mode, "LAB", ImageCms.Intent.RELATIVE_COLORIMETRIC
    )
    values = np.array(ImageCms.applyTransform(picture, transform)).astype(np.uint8)
    return np.concatenate(
        [values[..., :1] * (100 / 255), values[..., 1:].view(np.int8).astype(float)], axis=-1
    )


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean dE (CIE 1976); bytes of L*a*b* are rounded to .5 an axis."""
    return float(np.sqrt(((one - other) ** 2).sum(axis=-1)).mean())


@pytest.mark.parametrize("kind", ["file", "PIL"])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("name", WIDE)
def test_colours_look_as_before(name: str, file_format: str, kind: str):
    own = opened(WIDE[name])
    wide = ImageCms.profileToProfile(
        scene(), SRGB, own, renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC
    )
    lossless = {"lossless": True} if file_format == "WEBP" else {}
    quality = {"quality": 100, "subsampling": 0} if file_format == "JPEG" else {}
    data = encoded(wide, file_format, icc_profile=WIDE[name], **lossless, **quality)
    read = load_image(data if kind == "file" else Image.open(io.BytesIO(data)))
    limit = 1.2 if file_format == "JPEG" else 1  # the file itself has lost some
    assert difference(lab(read), lab(wide, own)) < limit
    if name != "LINEAR":  # whose 8 bits are few where it is dark
        away = np.abs(np.asarray(read).astype(int) - np.asarray(scene()))
        assert away.mean() < (1 if file_format != "JPEG" else 2)
    # What is not converted is duller than that: the test can tell
    assert difference(lab(Image.open(io.BytesIO(data)).convert("RGB")), lab(wide, own)) > 2


def test_greys_by_their_curve():
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None].repeat(2, axis=0))
    profile = profiles.grey(1.0)  # linear light
    read = np.asarray(load_image(encoded(ramp, icc_profile=profile)))[0, :, 0].astype(float)
    light = np.arange(256) / 255
    expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(read - expected).max() <= 1.5


def test_sixteen_bits_of_grey_are_not_rounded_before_their_curve():
    """A linear ramp of 8 bits jumps by 13 of 255 from black; of 16 bits it does not."""
    ramp = np.linspace(0, 8 * 257, 400).astype(np.uint16)[None]
    file = Image.fromarray(ramp)
    read = np.asarray(load_image(encoded(file, icc_profile=profiles.grey(1.0))))[0, :, 0]
    assert len(np.unique(read)) > 30 and np.diff(read.astype(int)).max() <= 1


def test_inks_by_their_table():
    inks = np.random.default_rng(5).integers(0, 200, (4, 5, 4), dtype=np.uint8)
    picture = Image.fromarray(inks, "CMYK").resize((30, 24), Image.Resampling.BILINEAR)
    own = opened(profiles.cmyk())
    read = load_image(encoded(picture, "TIFF", icc_profile=profiles.cmyk()))
    expected = lab(picture, own, "CMYK")
    seen = ImageCms.profileToProfile(picture, own, SRGB, outputMode="RGB", renderingIntent=1)
    in_gamut = difference(lab(seen), expected)  # some of these inks no screen shows
    assert difference(lab(read), expected) <= in_gamut + 1.5
    assert difference(lab(picture.convert("RGB")), expected) > difference(lab(read), expected) + 5


@pytest.mark.parametrize("profile", [ImageCms.ImageCmsProfile(SRGB).tobytes(), srgb_profile()])
def test_srgb_stays_to_the_bit(profile: bytes, pixels: np.ndarray):
    assert same(load_image(encoded(pixels, icc_profile=profile)), pixels)


def test_results_carry_one_profile_whenever_they_are_made():
    assert read_picture(np.zeros((2, 2, 3), np.uint8)).info["icc_profile"] == srgb_profile()
    assert ImageCms.getProfileDescription(opened(srgb_profile())).startswith("sRGB")


@pytest.mark.parametrize(
    "profile",
    [b"no profile", profiles.P3[:200], profiles.grey(2.2), profiles.cmyk(), bytes(128)],
    ids=["text", "cut", "of grey", "of inks", "zeros"],
)
def test_a_profile_that_does_not_fit_is_ignored_with_a_warning(profile: bytes, pixels: np.ndarray):
    with pytest.warns(UserWarning, match="colour profile .* ignored"):
        assert same(load_image(encoded(pixels, icc_profile=profile)), pixels)


# --- PNG's own words ------------------------------------------------------------------------------


def with_chunks(data: bytes, chunks: dict[bytes, bytes]) -> bytes:
    """A PNG with more chunks behind its header."""
    end = 8 + 25
    written = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks.items()
    )
    return data[:end] + written + data[end:]


def primaries(*values: float) -> bytes:
    return b"".join(struct.pack(">I", round(100_000 * value)) for value in values)


P3_PRIMARIES = primaries(0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
SRGB_PRIMARIES = primaries(0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)


def test_png_primaries_and_gamma_count_where_no_profile_is():
    """As littleCMS makes of the same primaries and gamma."""
    wide = ImageCms.profileToProfile(scene(), SRGB, opened(profiles.P3), renderingIntent=1)
    chunks = {b"gAMA": primaries(1 / 2.2), b"cHRM": P3_PRIMARIES}
    read = load_image(with_chunks(encoded(wide), chunks))
    away = np.abs(np.asarray(read).astype(int) - np.asarray(scene()))
    assert away.mean() < 1.5  # sRGB's curve is not quite 2.2
    linear = load_image(with_chunks(encoded(scene()), {b"gAMA": primaries(1.0)}))
    light = np.asarray(scene()) / 255
    expected = 255 * (1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(np.asarray(linear) - expected).max() <= 0.6


@pytest.mark.parametrize(
    "chunks",
    [
        {b"gAMA": primaries(0.45455)},
        {b"gAMA": primaries(0.45455), b"cHRM": SRGB_PRIMARIES},
        {b"sRGB": b"\0", b"gAMA": primaries(1.0), b"cHRM": P3_PRIMARIES},
        {b"gAMA": primaries(0.0)},
        {b"cHRM": primaries(0, 0, 0, 0, 0, 0, 0, 0)},
        {b"cHRM": primaries(0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3)},
    ],
    ids=["usual", "usual, in full", "sRGB says", "no gamma", "no primaries", "one colour"],
)
def test_what_says_srgb_or_nothing_leaves_pixels_to_the_bit(chunks, pixels: np.ndarray):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(load_image(with_chunks(encoded(pixels), chunks)), pixels)


def test_a_cameras_adobe_rgb_without_a_profile():
    wide = ImageCms.profileToProfile(scene(), SRGB, opened(profiles.ADOBE), renderingIntent=1)
    exif = Image.Exif()
    exif[0x8769] = {0xA001: 65535, 0xA005: {1: "R03"}}
    read = load_image(encoded(wide, "JPEG", quality=100, subsampling=0, exif=exif.tobytes()))
    assert np.abs(np.asarray(read).astype(int) - np.asarray(scene())).mean() < 2
