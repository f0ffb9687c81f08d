"""What comes in comes back: an edit that may change nothing returns the very picture, by every way in,
and masks mean the same to all of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from icd_engine.colour import srgb_profile
from icd_engine.errors import SettingsError
from icd_engine.images import read_picture
from icd_engine.masks import read_mask
from tests.icd_engine.images import profiles
from tests.icd_engine.images.encoding import encoded
from tests.icd_engine.plain_loops import SOURCE, TARGET

PROFILES = {
    "RGB": (None, srgb_profile(), profiles.P3, profiles.ADOBE, profiles.PROPHOTO, b"broken"),
    "L": (None, profiles.grey(2.2), profiles.grey(1.0)),
    "CMYK": (None, profiles.cmyk()),
}
GAMMAS = {profiles.grey(gamma): gamma for gamma in (2.2, 1.0)}
FORMATS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "JPEG": ("L", "RGB", "CMYK"),
    "BMP": ("1", "L", "P", "RGB"),
}
TURNED = (5, 6, 7, 8)


def made(mode: str, size: tuple[int, int], seed: int) -> Image.Image:
    """Random pixels of a mode; alpha is whole, none and between."""
    rng = np.random.default_rng(seed)
    width, height = size
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.uint16))
    pixels = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    pixels[..., 3] = rng.choice([0, 1, 128, 255], (height, width))
    return Image.fromarray(pixels).convert(mode)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Any picture file: format, mode, size, profile, alpha, orientation, resolution."""
    file_format = draw(st.sampled_from(sorted(FORMATS)))
    mode = draw(st.sampled_from(FORMATS[file_format]))
    size = draw(st.tuples(st.integers(1, 90), st.integers(1, 90)))
    options: dict = {"lossless": True} if file_format == "WEBP" else {}
    base = {"LA": "L", "I;16": "L", "1": "L"}.get(mode, "CMYK" if mode == "CMYK" else "RGB")
    profile = draw(st.sampled_from(PROFILES[base]))
    if profile is not None and file_format != "BMP":
        options["icc_profile"] = profile
    if file_format in ("PNG", "JPEG", "WEBP") and draw(st.booleans()):
        exif = Image.Exif()
        exif[0x0112] = draw(st.integers(0, 9))
        options["exif"] = exif.tobytes()
    if file_format in ("PNG", "JPEG", "TIFF") and draw(st.booleans()):
        options["dpi"] = draw(st.sampled_from([(72, 72), (300, 300), (300, 150)]))
    return encoded(made(mode, size, draw(st.integers(0, 9))), file_format, **options)


def seen(picture: Image.Image) -> np.ndarray:
    """RGBA as a viewer shows it: what is wholly transparent has no colour."""
    pixels = np.array(picture.convert("RGBA"))
    pixels[pixels[..., 3] == 0] = 0
    return pixels


def expected(data: bytes) -> np.ndarray:
    """The picture as Pillow and littleCMS alone show it: turned, in sRGB."""
    picture = Image.open(io.BytesIO(data))
    turned = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(picture.getexif().get(0x0112, 1))
    if turned is not None:
        shown = picture.transpose(Image.Transpose(turned))
        shown.info = picture.info
        picture = shown
    if picture.mode == "I;16":
        values = np.asarray(picture) / 65535
        gamma = GAMMAS.get(picture.info.get("icc_profile", b""))
        if gamma is not None:
            light = values**gamma
            values = np.where(light < 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        return seen(Image.fromarray(np.rint(255 * values).astype(np.uint8)))
    profile = picture.info.get("icc_profile")
    if profile in (None, b"broken", srgb_profile()):
        return seen(picture)
    own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}[own.profile.xcolor_space]
    transform = ImageCms.buildTransform(
        own,
        ImageCms.createProfile("sRGB"),
        space,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOOPTIMIZE,
    )
    rgba = picture.convert("RGBA")
    flat = picture.getchannel("L") if picture.mode == "LA" else picture
    flat = flat if flat.mode == "CMYK" else (rgba.convert("RGB") if space == "RGB" else flat)
    colours = ImageCms.applyTransform(flat.convert(space), transform).convert("RGBA")
    if picture.has_transparency_data:
        colours.putalpha(rgba.getchannel("A"))
    return seen(colours)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(files())
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_edit_that_may_change_nothing_returns_the_picture(small_engine, data):
    """Pixels as seen (to littleCMS's rounding where there is a profile), alpha, size, resolution."""
    read = read_picture(data)
    nothing = np.zeros(read.size[::-1], np.uint8)
    result = small_engine.edit(data, SOURCE, TARGET, mask=nothing)
    assert result.image.size == read.size and result.image.mode == read.mode
    assert np.array_equal(seen(result.image), seen(read))
    wanted = expected(data)
    assert np.array_equal(seen(result.image)[..., 3], wanted[..., 3])
    away = np.abs(seen(result.image).astype(int) - wanted)
    moved = Image.open(io.BytesIO(data)).info.get("icc_profile") not in (None, srgb_profile())
    assert away.max() <= (0 if not moved else 4) or away.mean() < 0.5 * moved
    dpi = Image.open(io.BytesIO(data)).info.get("dpi")
    if dpi is not None:
        assert result.image.info["dpi"] == pytest.approx([float(one) for one in dpi])


def test_saved_and_read_again_it_is_still_the_picture(small_engine, tmp_path):
    picture = made("RGBA", (70, 50), 4)
    data = encoded(picture, dpi=(300, 300))
    result = small_engine.edit(data, SOURCE, TARGET, mask=np.zeros((50, 70), bool))
    saved = Image.open(result.save(tmp_path / "a.png"))
    assert saved.mode == "RGBA" and np.array_equal(seen(saved), seen(picture))
    assert [round(one) for one in saved.info["dpi"]] == [300, 300]


def test_transparency_comes_back_unless_it_is_not_wanted(small_engine):
    picture = made("RGBA", (70, 50), 4)
    alpha = np.asarray(picture.getchannel("A"))
    both = small_engine.edit(picture, SOURCE, [TARGET, SOURCE])
    assert all(np.array_equal(one.getchannel("A"), alpha) for one in both.images)
    again = both.inversion.edit(TARGET)
    assert np.array_equal(again.image.getchannel("A"), alpha)
    assert small_engine.edit(picture, SOURCE, TARGET, keep_alpha=False).image.mode == "RGB"
    assert small_engine.edit(picture, SOURCE, TARGET, output_type="np").image.shape == (50, 70, 3)
    sized = small_engine.edit(picture, SOURCE, TARGET, size=(96, 64)).image
    assert (sized.size, sized.mode) == ((96, 64), "RGBA")


@pytest.mark.parametrize("keep", [False, True])
def test_metadata_of_the_source_on_request(keep, small_engine, small_bundle, tmp_path, monkeypatch):
    from icd_engine.cli import main

    monkeypatch.chdir(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "Camera Works"
    Path("a.jpg").write_bytes(encoded(made("RGB", (60, 40), 1), "JPEG", exif=exif.tobytes()))
    result = small_engine.edit("a.jpg", SOURCE, TARGET)
    asked = ["edit", "a.jpg", "--source", SOURCE, "--target", TARGET, "--model", str(small_bundle)]
    assert main([*asked, "--out", "c.jpg", "-q", *(["--keep-metadata"] if keep else [])]) == 0
    for path in (result.save("b.jpg", keep_metadata=keep), "c.jpg"):
        saved = Image.open(path)
        assert saved.size == (40, 60)
        kept = saved.getexif()
        assert kept.get(0x0112, 1) == 1 and (kept.get(0x010F) == "Camera Works") == keep
        assert b"compositeWithTrainedAlgorithmicMedia" in saved.info["xmp"]


def test_metadata_of_a_loaded_inversion_are_an_error(small_engine, tmp_path):
    kept = small_engine.invert(made("RGB", (60, 40), 1), SOURCE).save(tmp_path / "i.safetensors")
    result = small_engine.load_inversion(kept).edit(TARGET)
    with pytest.raises(SettingsError, match="metadata"):
        result.save(tmp_path / "a.png", keep_metadata=True)


# --- one meaning of masks -------------------------------------------------------------------------


def masks() -> dict[str, tuple[bytes, str | None]]:
    """The same disc in every form, and how its transparency is to be read where it has some."""
    rows, columns = np.mgrid[:64, :64]
    disc = (rows - 30) ** 2 + (columns - 34) ** 2 < 300
    white = disc.astype(np.uint8) * 255
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    photo[..., 3] = 255 - white
    strokes = np.zeros((64, 64, 4), np.uint8)
    strokes[disc] = (255, 0, 80, 255)
    labels = Image.fromarray(disc.astype(np.uint8), "P")
    labels.putpalette([0, 0, 0, 128, 0, 0])
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "white on black": (encoded(white), None),
        "hole": (encoded(photo), "hole"),
        "strokes": (encoded(strokes), "painted"),
        "labels": (encoded(labels), None),
        "turned": (encoded(np.rot90(white), exif=turned.tobytes()), None),
    }


@pytest.mark.parametrize("name", masks())
def test_library_command_line_page_and_service_read_a_mask_alike(
    name, small_engine, small_bundle, tmp_path, monkeypatch
):
    pytest.importorskip("cachetools")
    from icd_engine.cli import main
    from icd_engine.page.session import Visit
    from icd_engine.placement import Placement
    from icd_engine.serving.limits import Limits
    from icd_engine.serving.replica import EditJob, JobEditor

    data, alpha = masks()[name]
    white = read_mask(masks()["white on black"][0])
    assert np.array_equal(read_mask(data, alpha), white)

    monkeypatch.chdir(tmp_path)
    picture = encoded(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    Path("a.png").write_bytes(picture)
    Path("m.png").write_bytes(data)
    chosen = {} if alpha is None else {"mask_alpha": alpha}
    expected = np.asarray(
        small_engine.edit(picture, SOURCE, TARGET, mask=data, seed=5, **chosen).image
    )
    outside = white == 0
    assert np.array_equal(expected[outside], np.asarray(read_picture(picture))[outside])
    assert (expected != np.asarray(read_picture(picture)))[~outside].mean() > 0.5

    told = [] if alpha is None else ["--mask-alpha", alpha]
    asked = ["edit", "a.png", "--source", SOURCE, "--target", TARGET, "--model", str(small_bundle)]
    assert main([*asked, "--seed", "5", "--mask", "m.png", "-q", *told]) == 0
    assert np.array_equal(Image.open("a_edited.png"), expected)

    placement = Placement(device="cpu", dtype="float32", runner="eager")
    service = JobEditor(str(small_bundle), placement, Limits())
    # Without a word a hole is OpenAI's
    said = {"mask_alpha": alpha} if alpha == "painted" else {}
    job = EditJob(
        image=picture, source=SOURCE, target=TARGET, settings={"seed": 5, "mask": data, **said}
    )
    ((result,),) = service.run([service.read(job)])
    assert np.array_equal(result.image, expected)

    if name == "strokes":  # the page's own way
        visit = Visit(tmp_path)
        visit.open(picture)
        visit.paint([np.asarray(Image.open("m.png"))])
        assert np.array_equal(visit.mask, white)
