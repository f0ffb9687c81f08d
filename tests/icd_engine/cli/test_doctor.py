"""`icd doctor`: what a model is, and what is wrong with it or its packages."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from icd_engine.cli import doctor, main


@pytest.fixture
def sound(monkeypatch) -> dict[str, str | None]:
    """Versions that doctor finds, none of them in conflict."""
    versions: dict[str, str | None] = dict.fromkeys((*doctor.NEEDED, *doctor.FOR_WEIGHTS), "1.0")
    monkeypatch.setattr(doctor, "_version", versions.get)
    return versions


def test_doctor_tells_what_a_model_is(small_bundle, sound, capsys):
    assert main(["doctor", str(small_bundle)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for part in (
        "python",
        "torch",
        "cpu",
        "sd15",
        "64x64",
        "F32",
        "of random weights",
        "files are as recorded",
        "MB",
    ):
        assert part in out
    for part in (
        "in float32",
        "in bfloat16",
        "eager on",
        "an edit at 64x64: 8 network calls",
        "dB between the picture",
    ):
        assert part in out


def test_doctors_self_check_can_be_left_out(small_bundle, sound, capsys, monkeypatch):
    assert main(["doctor", str(small_bundle), "--no-self-check"]) == 0
    assert "network calls" not in capsys.readouterr().out
    monkeypatch.setattr(doctor, "CHECKED_BELOW", 1000)  # as of a large model
    assert main(["doctor", str(small_bundle)]) == 0
    assert "--self-check runs it" in capsys.readouterr().out
    assert main(["doctor", str(small_bundle), "--self-check"]) == 0
    assert "8 network calls" in capsys.readouterr().out


def test_doctor_edits_with_the_model(place, small_bundle, sound, capsys):
    """Files that are whole, digests that agree, and a network that cannot work."""
    shutil.copytree(small_bundle, "model")
    weights = load_file("model/unet/diffusion_pytorch_model.safetensors")
    weights["conv_out.weight"] = weights["conv_out.weight"] * 3e38
    save_file(weights, "model/unet/diffusion_pytorch_model.safetensors")
    record = json.loads(Path("model/icd.json").read_text())
    Path("model/icd.json").write_text(json.dumps(record | {"sha256": {}}))
    assert main(["doctor", "model"]) == 1
    err = capsys.readouterr().err
    assert "self-check" in err and err.count("\n") == 1


def test_doctor_finds_a_changed_file(place, small_bundle, sound, capsys):
    shutil.copytree(small_bundle, "model")
    Path("model/vae/config.json").write_text(Path("model/vae/config.json").read_text() + "\n")
    assert main(["doctor", "model"]) == 1
    out, err = capsys.readouterr()
    assert "BROKEN" in out
    assert err.startswith("icd: error: ") and "vae/config.json" in err and err.count("\n") == 1


def test_doctor_finds_missing_and_conflicting_packages(small_bundle, sound, capsys):
    sound.update({"tokenizers": None, "onnxruntime": "1.28", "onnxruntime-gpu": "1.28"})
    assert main(["doctor", str(small_bundle)]) == 1
    err = capsys.readouterr().err
    assert "tokenizers" in err and "overwrite each other" in err and err.count("\n") == 2


def test_doctor_wants_no_torch_for_an_exported_folder(exported, sound, capsys):
    sound.update(dict.fromkeys(doctor.FOR_WEIGHTS) | {"onnxruntime": "1.28"})
    assert main(["doctor", str(exported)]) == 0
    out, err = capsys.readouterr()
    assert (
        err == ""
        and "CPUExecutionProvider" in out
        and "decode_hop" in out
        and "files are as recorded" in out
    )
    sound["onnxruntime"] = None
    assert main(["doctor", str(exported)]) == 1
    assert "onnxruntime: not installed" in capsys.readouterr().err
