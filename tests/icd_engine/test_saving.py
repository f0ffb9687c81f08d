"""Saved pictures: their metadata, and that a failed save leaves nothing and loses nothing."""

import io
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from icd_engine.errors import ImageError
from icd_engine.images import load_image
from icd_engine.saving import save_image


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
        ("a.gif", "cannot tell the format of 'a.gif'"),
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


# --- file objects ---------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["PNG", "png", "JPEG", "jpg", ".WEBP", np.str_("webp")])
def test_a_file_object_holds_what_the_file_would(named: str, tmp_path: Path):
    picture = Image.radial_gradient("L").resize((32, 24)).convert("RGB")
    buffer = io.BytesIO()
    assert save_image(picture, buffer, format=named) is buffer
    path = save_image(picture, tmp_path / f"a.{named.lower().strip('.')}")
    assert buffer.getvalue() == path.read_bytes()
    with open(tmp_path / "b", "wb") as file:
        save_image(picture, file, format=named, provenance=False)
    assert b"xmpmeta" not in (tmp_path / "b").read_bytes()
    assert load_image(tmp_path / "b").size == (32, 24)


def test_a_format_goes_over_a_suffix(tmp_path: Path):
    path = save_image(Image.new("RGB", (8, 8)), tmp_path / "a.thumbnail", format="JPEG")
    assert Image.open(path).format == "JPEG" and path.name == "a.thumbnail"


@pytest.mark.parametrize(
    ("target", "named", "text"),
    [
        (io.BytesIO(), None, "a file object does not tell its format: give format='PNG', 'JPEG'"),
        (io.BytesIO(), "GIF", "format must be 'PNG', 'JPEG' or 'WEBP', not 'GIF'"),
        (io.BytesIO(), 3, "format must be 'PNG', 'JPEG' or 'WEBP', not 3"),
        ("a.png", "", "format must be 'PNG', 'JPEG' or 'WEBP', not ''"),
        (io.StringIO(), "PNG", "cannot write to the file object: open it for writing in binary"),
        (io.BufferedReader(io.BytesIO()), "PNG", "cannot write to the file object: open it for"),
        (None, "PNG", "a path or a file object is needed to write to, not None"),
        (5, None, "a path or a file object is needed to write to, not 5"),
    ],
    ids=str,
)
def test_targets_that_cannot_be_written(target, named, text: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImageError, match=text):
        save_image(Image.new("RGB", (4, 4)), target, format=named)
    assert list(tmp_path.iterdir()) == []
    if isinstance(target, io.BytesIO):
        assert target.getvalue() == b""


def test_a_full_disk_behind_a_file_object_is_named():
    class Full(io.BytesIO):
        def write(self, data) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(ImageError, match="file object: No space left on device"):
        save_image(Image.new("RGB", (4, 4)), Full(), format="PNG")
