"""Signed pictures: read back by C2PA's own reader, and refused whole where the key or the
certificate is wrong."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icd_engine.cli import main
from icd_engine.errors import RunnerError, SettingsError
from icd_engine.images import load_image
from icd_engine.provenance import Signature
from icd_engine.saving import save_image
from icd_engine.version import __version__

IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"
SOURCE = "a small red circle on a plain blue background"
TARGET = "a small green circle on a plain blue background"
DEMO = Path(__file__).parents[2] / "icd_engine" / "bundles" / "tiny" / "demo.png"


@pytest.fixture
def files(tmp_path, credentials) -> tuple[Path, Path]:
    for name, data in credentials._asdict().items():
        (tmp_path / f"{name}.pem").write_bytes(data)
    return tmp_path / "certificate.pem", tmp_path / "key.pem"


def read_back(path: Path) -> tuple[str, dict]:
    """The state and the active manifest, by the library's reader."""
    import c2pa

    kind = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}[path.suffix]
    with c2pa.Reader(kind, io.BytesIO(path.read_bytes())) as reader:
        return reader.get_validation_state(), reader.get_active_manifest()


def actions(manifest: dict) -> list[dict]:
    return next(one for one in manifest["assertions"] if one["label"].startswith("c2pa.actions"))[
        "data"
    ]["actions"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_signed_picture_says_what_it_is(tmp_path, files, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    picture, path = Image.fromarray(pixels), tmp_path / f"made{suffix}"
    save_image(
        picture, path, source_type="trainedAlgorithmicMedia", signature=Signature.read(*files)
    )
    state, manifest = read_back(path)
    assert state == "Valid"
    assert actions(manifest) == [
        {"action": "c2pa.created", "digitalSourceType": IPTC + "trainedAlgorithmicMedia"}
    ]
    generator = manifest["claim_generator_info"][0]
    assert (generator["name"], generator["version"]) == ("icd_engine", __version__)
    assert manifest["title"] == path.name and "thumbnail" not in manifest
    assert b"Iptc4xmpExt" in path.read_bytes()  # the unsigned statement is still there
    plain = save_image(picture, tmp_path / f"plain{suffix}")
    assert np.array_equal(load_image(path), load_image(plain))


@pytest.mark.parametrize("name", ["猫", "caf\udce9"], ids=["far", "no text"])
def test_a_title_is_text_whatever_the_name(tmp_path, files, name):
    path = tmp_path / f"{name}.png"
    save_image(Image.new("RGB", (24, 32)), path, signature=Signature.read(*files))
    assert read_back(path)[1]["title"] == {"猫": "猫.png"}.get(name, "caf\\udce9.png")


def test_a_changed_picture_is_found_out(tmp_path, files):
    path = save_image(
        Image.new("RGB", (24, 32)), tmp_path / "made.png", signature=Signature.read(*files)
    )
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 1
    path.write_bytes(data)
    assert read_back(path)[0] == "Invalid"


def test_a_file_object_is_signed_too(tmp_path, files):
    buffer = io.BytesIO()
    signature = Signature.read(*files)
    save_image(Image.new("RGB", (24, 32)), buffer, format="JPEG", signature=signature)
    path = tmp_path / "copied.jpg"
    path.write_bytes(buffer.getvalue())
    state, manifest = read_back(path)
    assert state == "Valid" and manifest["title"] == "picture.jpeg"


def test_an_edit_names_its_parent_without_showing_it(tmp_path, files):
    parent = save_image(Image.new("RGB", (24, 32), "red"), tmp_path / "parent.jpg").read_bytes()
    path = save_image(
        Image.new("RGB", (24, 32)),
        tmp_path / "edited.png",
        signature=Signature.read(*files),
        parent=parent,
    )
    state, manifest = read_back(path)
    assert state == "Valid"
    assert [action["action"] for action in actions(manifest)] == ["c2pa.opened", "c2pa.edited"]
    assert (
        actions(manifest)[1]["digitalSourceType"] == IPTC + "compositeWithTrainedAlgorithmicMedia"
    )
    (ingredient,) = manifest["ingredients"]
    assert (ingredient["relationship"], ingredient["format"]) == ("parentOf", "image/jpeg")
    assert "thumbnail" not in ingredient


def test_a_signed_parent_is_carried_on(tmp_path, files):
    signature = Signature.read(*files)
    parent = save_image(
        Image.new("RGB", (8, 8)), tmp_path / "parent.png", signature=signature
    ).read_bytes()
    path = save_image(
        Image.new("RGB", (8, 8)), tmp_path / "edited.png", signature=signature, parent=parent
    )
    state, manifest = read_back(path)
    assert state == "Valid" and "active_manifest" in manifest["ingredients"][0]


def test_other_kinds_of_keys(make_credentials):
    from cryptography.hazmat.primitives.asymmetric import ec

    signature = Signature(*make_credentials(ec.SECP384R1))
    assert signature.sign(DEMO.read_bytes(), "demo.png", "trainedAlgorithmicMedia").startswith(
        b"\x89PNG"
    )


WRONG = {
    "key of another": lambda make, own: (own.certificate, make().key),
    "no key": lambda make, own: (own.certificate, b"nothing"),
    "empty key": lambda make, own: (own.certificate, b""),
    "zero byte": lambda make, own: (own.certificate, b"\0" + own.key),
    "cut key": lambda make, own: (own.certificate, own.key[:100]),
    "no certificate": lambda make, own: (b"nothing", own.key),
    "empty certificate": lambda make, own: (b"", own.key),
    "swapped": lambda make, own: (own.key, own.certificate),
    "not for documents": lambda make, own: make(for_documents=False),
}


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
def test_what_cannot_sign_is_one_error_and_nothing_is_written(
    tmp_path, make_credentials, credentials, make
):
    signature = Signature(*make(make_credentials, credentials))
    with pytest.raises(
        SettingsError, match=r"^the picture cannot be signed with this certificate and key: "
    ) as error:
        save_image(Image.new("RGB", (8, 8)), tmp_path / "made.png", signature=signature)
    assert "\n" not in str(error.value) and "PRIVATE KEY" not in str(error.value)
    assert "PRIVATE KEY" not in repr(signature)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(RunnerError, match=r"icd-engine\[provenance\]"):
        save_image(Image.new("RGB", (8, 8)), tmp_path / "made.png", signature=Signature(b"", b""))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["edit", "generate"])
def test_on_the_command_line(tmp_path, files, capsys, command):
    out = tmp_path / "out.png"
    what = (
        ["edit", str(DEMO), "--source", SOURCE, "--target", TARGET]
        if command == "edit"
        else ["generate", TARGET]
    )
    options = [
        "--c2pa-cert",
        str(files[0]),
        "--c2pa-key",
        str(files[1]),
        "--quiet",
        "--out",
        str(out),
    ]
    assert main([*what, *options]) == 0, capsys.readouterr().err
    state, manifest = read_back(out)
    kind = {"edit": "compositeWithTrainedAlgorithmicMedia", "generate": "trainedAlgorithmicMedia"}[
        command
    ]
    assert state == "Valid" and actions(manifest)[-1]["digitalSourceType"] == IPTC + kind
    assert len(manifest.get("ingredients", [])) == (1 if command == "edit" else 0)


@pytest.mark.parametrize("command", ["edit", "generate"])
def test_the_statement_can_be_left_out(tmp_path, capsys, command):
    out = tmp_path / "out.png"
    what = (
        ["edit", str(DEMO), "--source", SOURCE, "--target", TARGET]
        if command == "edit"
        else ["generate", TARGET]
    )
    assert main([*what, "--no-provenance", "--quiet", "--out", str(out)]) == 0, (
        capsys.readouterr().err
    )
    assert set(Image.open(out).info) == {"icc_profile"}


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--c2pa-cert", "certificate.pem"], 2, "--c2pa-cert and --c2pa-key belong together"),
        (["--c2pa-key", "key.pem"], 2, "--c2pa-cert and --c2pa-key belong together"),
        (
            ["--c2pa-cert", "certificate.pem", "--c2pa-key", "key.pem", "--no-provenance"],
            2,
            "contradicts",
        ),
        (["--c2pa-cert", "certificate.pem", "--c2pa-key", "nowhere.pem"], 1, "cannot read"),
        (
            ["--c2pa-cert", "certificate.pem", "--c2pa-key", "certificate.pem"],
            1,
            "cannot be signed",
        ),
    ],
    ids=["no key", "no certificate", "contradiction", "missing file", "wrong file"],
)
def test_a_wrong_signature_shows_before_the_model_is_loaded(
    tmp_path, files, capsys, monkeypatch, options, code, text
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("icd_engine.cli.generate.open_styled", None)
    assert main(["generate", TARGET, "--out", "out.png", *options]) == code
    error = capsys.readouterr().err
    assert text in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out.png").exists()
