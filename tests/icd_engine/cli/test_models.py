"""`icd models`, `icd pull`, `icd remove`, and commands that are given a published model's name."""

import pytest

from icd_engine.bundles.home import model_folder
from icd_engine.cli import main
from tests.icd_engine.bundles.stub_sources import contents, serving
from tests.icd_engine.cli.written import check_refused

EDIT = ["edit", "cat.png", "--source", "a cat", "--target", "a dog", "--model", "icd-sd15"]


@pytest.fixture
def server(place, tmp_path, monkeypatch):
    monkeypatch.setenv("ICD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ICD_YES", raising=False)
    monkeypatch.setattr("sys.stdin", None)
    with serving(contents()) as server:
        server.stand_in(monkeypatch)
        yield server


def listed(capsys) -> dict[str, str]:
    """Name -> the rest of its line."""
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[0]: " ".join(line.split()[1:]) for line in lines}


def test_a_models_life(server, capsys, tmp_path):
    before = listed(capsys)
    assert before["tiny"].startswith("here ") and before["tiny"].endswith("inside the package")
    assert before["icd-sdxl"] == "to download 13.91 GB SDXL, four steps"
    assert main(["pull", "icd-sd15", "--yes", "--quiet"]) == 0
    assert capsys.readouterr() == (f"{model_folder('icd-sd15')}\n", "")
    after = listed(capsys)
    assert after["icd-sd15"] == "here 4.4 MB Stable Diffusion 1.5, four steps"
    assert after["icd-sd15-b"].startswith("to download 500.0 MB ")
    assert after["downloads"] == "that are kept: 4.8 MB" and str(tmp_path) in after["folder:"]
    assert main(["remove", "icd-sd15"]) == 0
    assert capsys.readouterr() == ("", "9.2 MB freed\n")
    assert listed(capsys) == before


def test_downloads_alone_go(server, capsys):
    assert main(["pull", "icd-sd15", "-yq"]) == main(["remove", "--downloads", "-q"]) == 0
    capsys.readouterr()
    after = listed(capsys)
    assert after["icd-sd15"].startswith("here") and after["downloads"].endswith(" 0.0 MB")


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["pull", "icd-sd15"], 1, "about 4.3 GB would be downloaded"),
        (["pull", "sd15", "--yes"], 1, "'sd15' is not the name of a published model"),
        (["remove", "icd-sd15"], 1, "icd-sd15 is not on this machine"),
        (["remove"], 2, "give the NAME of a model, or --downloads"),
        (["remove", "icd-sd15", "--downloads"], 2, "give the NAME of a model, or --downloads"),
        (EDIT, 1, "`icd pull icd-sd15`"),
        (["generate", "a cat", "--model", "icd-sd15"], 1, "`icd pull icd-sd15`"),
        (
            ["invert", "cat.png", "--source", "a", "--out", "a.safetensors", "--model", "icd-sd15"],
            1,
            "`icd pull icd-sd15`",
        ),
        (["serve", "--model", "icd-sd15"], 1, "`icd pull icd-sd15`"),
        (["batch", "a.csv", "--out", "out", "--model", "icd-sd15"], 1, "`icd pull icd-sd15`"),
    ],
)
def test_what_is_not_here_is_one_line(server, capsys, arguments, code, part):
    check_refused(capsys, arguments, code, part)
    assert server.asked == []


def test_doctor_tells_and_downloads_nothing(server, capsys):
    assert main(["doctor", "icd-sd15"]) == 1
    assert "BROKEN: icd-sd15 is not on this machine yet" in capsys.readouterr().out
    assert server.asked == []


def test_a_bad_picture_is_known_before_anything_is_downloaded(server, capsys):
    check_refused(capsys, [*EDIT[:1], "none.png", *EDIT[2:], "--yes"], 1, "none.png")
    assert server.asked == []
