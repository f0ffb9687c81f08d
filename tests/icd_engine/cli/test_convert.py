"""`icd convert` writes a bundle and reports, or says what does not fit."""

import json
import signal

import pytest

from icd_engine.bundles import convert as module
from icd_engine.cli import main
from tests.icd_engine.cli.written import ROOT, check_refused

PUBLISHED = ROOT / "tests" / "data" / "golden" / "sd15"


def convert_arguments(forward: str = "iCD-SD15-forward.safetensors") -> list[str]:
    parts = {
        "base": "base",
        "teacher": "sd15_cfg_distill.pt",
        "forward": forward,
        "reverse": "iCD-SD15-reverse.safetensors",
    }
    return [
        "convert",
        *(text for key, name in parts.items() for text in (f"--{key}", str(PUBLISHED / name))),
    ]


def test_convert_writes_a_bundle_and_reports(tmp_path, capsys):
    out = tmp_path / "made"
    steps = ["--decode-steps", "249,499,699,999", "--encode-steps", "19,249,499,699"]
    assert main([*convert_arguments(), "--out", str(out), *steps, "--precision", "fp16"]) == 0
    printed, report = capsys.readouterr()
    assert printed == f"{out}\n"
    assert json.loads((out / "icd.json").read_text())["decode_times"] == [249, 499, 699, 999]
    for part in (
        "sd15",
        "19 -> 249 -> 499 -> 699 -> 999",
        "999 -> 699 -> 499 -> 249 -> 0",
        "F16",
        "MB",
        "note            LoRA alpha assumed: 8",
    ):
        assert part in report
    assert main(["doctor", str(out)]) in (0, 1)  # 1 where the installation itself is broken
    assert "as recorded" in capsys.readouterr().out
    check_refused(capsys, [*convert_arguments(), "--out", str(out)], 1, "not empty")


def test_convert_takes_both_directions_from_one_place(tmp_path, capsys):
    (tmp_path / "lora").mkdir()
    for role in ("forward", "reverse"):
        name = f"iCD-SD15-{role}.safetensors"
        (tmp_path / "lora" / name).write_bytes((PUBLISHED / name).read_bytes())
    base = [
        "convert",
        "--base",
        str(PUBLISHED / "base"),
        "--teacher",
        str(PUBLISHED / "sd15_cfg_distill.pt"),
    ]
    assert main([*base, "--lora", str(tmp_path / "lora"), "--out", str(tmp_path / "made")]) == 0
    assert (
        capsys.readouterr().out == f"{tmp_path / 'made'}\n"
        and (tmp_path / "made" / "icd.json").is_file()
    )
    check_refused(capsys, [*base, "--out", str(tmp_path / "x")], 2, "--lora")


def test_convert_reports_both_text_encoders_of_sdxl(tmp_path, capsys):
    files = {"base": "base", "teacher": "sdxl_cfg_distill.pt"}
    files |= {role: f"iCD-SDXL-{role}.safetensors" for role in ("forward", "reverse")}
    parts = [
        text
        for key, name in files.items()
        for text in (f"--{key}", str(PUBLISHED.parent / "sdxl" / name))
    ]
    assert main(["convert", *parts, "--out", str(tmp_path / "made")]) == 0
    names = [line.split()[0] for line in capsys.readouterr().err.splitlines()]
    assert "text_encoder" in names and "text_encoder_2" in names


def test_convert_refuses_what_does_not_fit(tmp_path, capsys):
    check_refused(
        capsys,
        [*convert_arguments("generate.safetensors"), "--out", str(tmp_path / "x")],
        1,
        "generate",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("step", ["read_found", "fuse"])
def test_a_conversion_that_is_ended_leaves_nothing(
    tmp_path, capsys, monkeypatch, request, name, step
):
    """While it reads, and while it writes."""
    number = getattr(signal, name)
    if name == "SIGINT":  # ignored where the tests run in the background of a shell
        before = signal.signal(number, signal.default_int_handler)
        request.addfinalizer(lambda: signal.signal(number, before))
    monkeypatch.setattr(module, step, lambda *_, **__: signal.raise_signal(number))
    told = "interrupted" if name == "SIGINT" else f"ended by {name}"
    arguments = [*convert_arguments(), "--out", str(tmp_path / "x"), "--quiet"]
    check_refused(capsys, arguments, 128 + number, told)
    assert list(tmp_path.iterdir()) == []


def test_an_out_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    arguments = [*convert_arguments("nowhere.safetensors"), "--out", str(tmp_path / "file" / "x")]
    check_refused(capsys, arguments, 1, "file/x cannot be written: Not a directory")
