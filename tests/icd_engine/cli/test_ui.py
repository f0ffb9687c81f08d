"""`icd ui`, before it starts anything: every mistake is one line and an exit code.

And its examples.
"""

from __future__ import annotations

import importlib.util

import pytest

from icd_engine.bundles.demo import read_demo
from icd_engine.cli import main, ui
from icd_engine.cli.ui import SCENES
from training.world.scenes import parse_caption


def check_refused(capsys, arguments: list[str], code: int, *parts: str) -> None:
    assert main(["ui", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("icd: error: ") and err.count("\n") == 1
    for part in parts:
        assert part in err


@pytest.fixture(autouse=True)
def no_login(monkeypatch):
    monkeypatch.delenv("ICD_AUTH", raising=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_another_address_needs_a_login(capsys, host):
    check_refused(capsys, ["--host", host], 2, "--host", host, "--auth", "ICD_AUTH")


@pytest.mark.parametrize("auth", ["", "me", "me:", ":secret"])
def test_a_login_is_a_user_and_a_password(capsys, auth):
    check_refused(capsys, ["--auth", auth], 2, "USER:PASSWORD")


def test_a_login_of_the_environment_counts(capsys, monkeypatch):
    pytest.importorskip("gradio")
    monkeypatch.setenv("ICD_AUTH", "me:secret:with:colons")
    check_refused(capsys, ["--host", "0.0.0.0", "--model", "/no/such/folder"], 1, "/no/such/folder")


def test_gradio_is_asked_for(capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(ui, "find_spec", lambda name: None if name == "gradio" else found(name))
    check_refused(capsys, [], 1, "pip install 'icd-engine[ui]'")


@pytest.mark.parametrize("folder", sorted(SCENES.iterdir()), ids=lambda folder: folder.name)
def test_an_example_changes_one_word_of_the_models_world(folder):
    scene = read_demo(folder)
    source, target = parse_caption(scene.source), parse_caption(scene.target)
    assert sum(source[kind] != target[kind] for kind in source) == 1
    assert scene.picture.size == (128, 128)
