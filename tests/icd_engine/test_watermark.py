"""The mark in the pixels: found again, imperceptible, kept by what pictures go through."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icd_engine.cli import main
from icd_engine.errors import ImageError, RunnerError
from icd_engine.images import psnr
from icd_engine.saving import image_bytes, save_image
from icd_engine.watermark import ENOUGH, bits_found, by_chance, is_marked, marked

needs_library = pytest.mark.skipif(
    find_spec("imwatermark") is None, reason="invisible-watermark is not installed"
)


def gradio_photo(name: str) -> Image.Image:
    """A photo that comes with Gradio, which need not be imported for it."""
    gradio = find_spec("gradio")
    if gradio is None or gradio.origin is None:
        pytest.skip("the photos come with Gradio")
    return Image.open(Path(gradio.origin).parent / "media_assets" / "images" / name).convert("RGB")


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return gradio_photo("cheetah.jpg").resize((256, 256))


@needs_library
def test_the_mark_is_found_and_not_seen(photo):
    photo.info["dpi"] = (72, 72)
    other = marked(photo)
    assert other.size == photo.size and other.info == photo.info
    assert psnr(photo, other) > 35
    assert bits_found(other) >= 30 and is_marked(other)
    assert not is_marked(photo)


@needs_library
def test_it_is_in_what_is_saved_and_transparency_stays(photo, tmp_path):
    clear = photo.copy()
    clear.putalpha(Image.linear_gradient("L"))
    path = save_image(clear, tmp_path / "marked.png", watermark=True)
    saved = Image.open(path)
    assert np.array_equal(saved.getchannel("A"), clear.getchannel("A"))
    assert is_marked(saved)
    assert image_bytes(photo) == image_bytes(photo, watermark=False)


@needs_library
def test_where_it_cannot_be_read_back_that_is_said():
    with pytest.warns(UserWarning, match="cannot be read back"):
        marked(Image.new("RGB", (256, 256), "orange"))


def test_chance():
    assert by_chance(0) == 1 and by_chance(32) == 2**-32
    assert 1 / 3_800 < by_chance(ENOUGH) < 1 / 3_700


def test_small_pictures_are_refused_and_nothing_is_written(tmp_path):
    for call in (marked, bits_found):
        with pytest.raises(ImageError, match="255 x 256 is too small"):
            call(Image.new("RGB", (255, 256)))
    with pytest.raises(ImageError):
        save_image(Image.new("RGB", (64, 64)), tmp_path / "a.png", watermark=True)
    assert not list(tmp_path.iterdir())


def test_a_mode_that_has_no_colours():
    with pytest.raises(ImageError, match="mode L"):
        marked(Image.new("L", (256, 256)))


def test_a_missing_package_is_named(monkeypatch, capsys):
    monkeypatch.setattr("icd_engine.watermark.find_spec", lambda name: None)
    with pytest.raises(RunnerError, match=r"icd-engine\[watermark\]"):
        marked(Image.new("RGB", (256, 256)))
    assert main(["generate", "a circle", "--watermark", "--quiet"]) == 1
    assert "icd-engine[watermark]" in capsys.readouterr().err


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def cropped(picture: Image.Image, share: float) -> Image.Image:
    """The middle: `share` of width and height."""
    width, height = (round(side * share) for side in picture.size)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


WAYS = {
    "JPEG 80": lambda one: jpeg(one, 80),
    "half its size, and back": lambda one: one.resize(
        (one.width // 2, one.height // 2), Image.Resampling.BICUBIC
    ).resize(one.size, Image.Resampling.BICUBIC),
    "cropped to 80 %": lambda one: cropped(one, 0.8),
}


@pytest.mark.long
@needs_library
def test_what_the_mark_lives_through():
    """Photos that come with Gradio, as docs/provenance.md has them."""
    for name in ("cheetah.jpg", "groot.jpeg", "tower.jpg"):
        photo = gradio_photo(name)
        photo.thumbnail((720, 720))
        assert not is_marked(photo), name
        other = marked(photo)
        assert psnr(photo, other) > 38
        for way, change in WAYS.items():
            assert is_marked(change(other)), (name, way, bits_found(change(other)))
