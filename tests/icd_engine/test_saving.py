"""Saved pictures: their metadata, and that a failed save leaves nothing and loses nothing."""

import io
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from icd_engine import metadata
from icd_engine.colour import srgb_profile
from icd_engine.errors import ImageError
from icd_engine.images import load_image, read_picture
from icd_engine.saving import image_bytes, save_image
from tests.icd_engine.images.encoding import encoded


@pytest.mark.parametrize(
    "source_type", ["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"]
)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".webp"])
def test_a_saved_picture_says_that_a_model_made_it(suffix: str, source_type: str, tmp_path: Path):
    picture = Image.radial_gradient("L").resize((32, 24)).convert("RGB")
    path = save_image(picture, tmp_path / "new" / f"a{suffix}", source_type=source_type)
    saved = Image.open(path)
    tree = ElementTree.fromstring(saved.info["xmp"].decode())
    found = tree.find(".//{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType")
    assert (
        found is not None
        and found.text == f"http://cv.iptc.org/newscodes/digitalsourcetype/{source_type}"
    )
    difference = np.asarray(load_image(path)).astype(int) - np.asarray(picture)
    # Quality 95 of a smooth picture
    assert np.abs(difference).max() <= (0 if suffix == ".png" else 12)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_without_provenance_no_metadata_is_written(suffix: str, tmp_path: Path):
    picture = Image.new("RGB", (8, 8))
    picture.info = {"xmp": b"<private/>", "exif": b"Exif\0\0private", "comment": b"private"}
    path = save_image(picture, tmp_path / f"a{suffix}", provenance=False)
    assert b"xmpmeta" not in path.read_bytes() and b"private" not in path.read_bytes()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.gif", "cannot tell the format of 'a.gif': end it in .png"),
        ("a", "cannot tell the format"),
        ("folder.png", "cannot write"),
        ("file/a.png", "cannot write"),
        ("zero\0.png", "cannot write"),
        ("x" * 300 + ".png", "cannot write"),
    ],
    ids=["gif", "no suffix", "a folder", "in a file", "zero byte", "long"],
)
def test_a_failed_save_leaves_nothing(name: str, text: str, tmp_path: Path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ImageError, match=text) as error:
        save_image(Image.new("RGB", (4, 4)), tmp_path / name)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder.png"]


def test_a_full_disk_keeps_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = save_image(Image.new("RGB", (4, 4), "red"), tmp_path / "a.png")
    before = path.read_bytes()

    def write_half(part: Path, data: bytes) -> None:
        with open(part, "wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(ImageError, match="No space left on device"):
        save_image(Image.new("RGB", (4, 4), "blue"), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_picture_that_cannot_be_encoded(tmp_path: Path):
    with pytest.raises(ImageError, match="cannot write a F picture"):
        save_image(Image.new("F", (4, 4)), tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="unknown source_type 'photo'"):
        save_image(Image.new("RGB", (4, 4)), tmp_path / "a.jpg", source_type="photo")
    assert list(tmp_path.iterdir()) == []


# --- what goes with a picture ---------------------------------------------------------------------


def source() -> bytes:
    """A JPEG of a camera, with all that such files say."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "Camera Works"
    exif[0x8825] = {1: "N", 2: (51.0, 28.0, 38.0)}
    exif[0x8769] = {0x9003: "2026:01:02 03:04:05", 0xA002: 640, 0xA003: 480}
    xmp = metadata.XMP.format('<rdf:Description rdf:about="" xmlns:dc="d" dc:title="My cat"/>')
    block = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\x05\x1c\x02\x78\0\0"
    app13 = b"\xff\xed" + (len(block) + 2).to_bytes(2, "big") + block
    return encoded(
        Image.new("RGB", (64, 48), "teal"),
        "JPEG",
        exif=exif.tobytes(),
        dpi=(300, 300),
        comment="a comment",
        xmp=xmp.encode(),
        extra=app13,
    )


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".avif"])
def test_metadata_are_kept_where_that_is_asked_for(suffix: str, tmp_path: Path):
    picture = read_picture(source())
    path = save_image(picture, tmp_path / f"a{suffix}", about=picture.info)
    saved = Image.open(path)
    assert saved.size == (48, 64)  # upright, and so it says
    exif = saved.getexif()
    assert exif.get(0x0112, 1) == 1 and exif[0x010F] == "Camera Works"
    assert exif.get_ifd(0x8825)[2] == (51.0, 28.0, 38.0)
    detail = exif.get_ifd(0x8769)
    assert detail[0x9003] == "2026:01:02 03:04:05" and 0xA002 not in detail
    xmp = saved.info["xmp"]
    assert b"My cat" in xmp and b"compositeWithTrainedAlgorithmicMedia" in xmp
    ElementTree.fromstring(xmp.decode())
    if suffix in (".png", ".jpg"):
        text = saved.info["comment"].decode() if suffix == ".jpg" else saved.info["Comment"]
        assert text == "a comment"
        assert [round(one) for one in saved.info["dpi"]] == [300, 300]
    assert (suffix == ".jpg") == (b"8BIM\x04\x04" in path.read_bytes())


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".avif"])
def test_resolution_and_profile_always_go_and_the_rest_never_by_itself(suffix: str, tmp_path: Path):
    picture = read_picture(source())
    data = save_image(picture, tmp_path / f"a{suffix}").read_bytes()
    saved = Image.open(tmp_path / f"a{suffix}")
    assert saved.info["icc_profile"] == srgb_profile()
    if suffix in (".png", ".jpg"):
        assert [round(one) for one in saved.info["dpi"]] == [300, 300]
    for private in (b"Camera Works", b"My cat", b"a comment", b"8BIM"):
        assert private not in data
    assert save_image(picture, tmp_path / f"b{suffix}").read_bytes() == data


@pytest.mark.parametrize("form", ["element", "attribute"])
@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("trainedAlgorithmicMedia", "trainedAlgorithmicMedia"),
        ("digitalCapture", "compositeWithTrainedAlgorithmicMedia"),
    ],
)
def test_a_mark_of_a_model_stays_and_another_is_replaced(own: str, expected: str, form: str):
    address = f"http://cv.iptc.org/newscodes/digitalsourcetype/{own}"
    name = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    described = {
        "element": f'<rdf:Description xmlns:e="{name}"><e:DigitalSourceType>{address}'
        "</e:DigitalSourceType></rdf:Description>",
        "attribute": f'<rdf:Description xmlns:e="{name}" e:DigitalSourceType="{address}"/>',
    }[form]
    about = {"xmp": metadata.XMP.format(described).encode()}
    data = image_bytes(Image.new("RGB", (4, 4)), about=about)
    text = Image.open(io.BytesIO(data)).info["xmp"].decode()
    assert text.count("DigitalSourceType") == described.count("DigitalSourceType")
    assert f"/{expected}" in text
    assert (own in text) == (own == expected)


@pytest.mark.parametrize("xmp", [b"", b"no xml", b"\xff\xfe broken", b"<x:xmpmeta/>"])
def test_broken_xmp_gives_way_to_the_mark(xmp: bytes):
    data = image_bytes(Image.new("RGB", (4, 4)), about={"xmp": xmp})
    tree = ElementTree.fromstring(Image.open(io.BytesIO(data)).info["xmp"].decode())
    assert "compositeWithTrainedAlgorithmicMedia" in "".join(tree.itertext())


def test_transparency_is_saved_and_a_jpeg_lies_on_white(tmp_path: Path):
    picture = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    picture.paste((0, 0, 200, 255), (0, 0, 4, 8))
    for suffix in (".png", ".webp", ".avif"):
        saved = Image.open(save_image(picture, tmp_path / f"a{suffix}"))
        assert saved.mode == "RGBA" and np.array_equal(
            np.asarray(saved)[..., 3], np.asarray(picture)[..., 3]
        )
    with pytest.warns(UserWarning, match="on white"):
        path = save_image(picture, tmp_path / "a.jpg")
    assert np.asarray(Image.open(path))[:, 5:].min() > 245


def test_quality_is_settable_and_checked(tmp_path: Path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for suffix in (".jpg", ".webp", ".avif"):
        low, high = (len(image_bytes(noise, f"a{suffix}", quality=q)) for q in (30, 95))
        assert low < 0.7 * high
    for wrong in (0, 101, 50.0, True, "90"):
        with pytest.raises(ImageError, match="quality must be"):
            image_bytes(noise, "a.jpg", quality=wrong)
