"""`icd edit`: what it writes and prints."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icd_engine.cli import main
from icd_engine.engine import Engine
from icd_engine.model import Model
from tests.icd_engine.cli.written import (
    EDITED,
    OTHER,
    SOURCE,
    TARGET,
    check_refused,
    files,
    pixels_of,
)

# --- edit -----------------------------------------------------------------------------------------


def test_edit_equals_the_library(place, capsys, small_bundle, small_engine):
    command = [
        "edit",
        "cat.png",
        "--source",
        SOURCE,
        "--target",
        TARGET,
        "--model",
        str(small_bundle),
    ]
    assert main([*command, "--device", "cpu", "--dtype", "float32"]) == 0
    out, err = capsys.readouterr()
    assert out == "cat_edited.png\n"
    assert "8 network calls" in err
    assert files(place) == {"cat.png", "cat_edited.png"}
    expected = small_engine.edit("cat.png", SOURCE, TARGET).image
    assert np.array_equal(pixels_of("cat_edited.png"), np.asarray(expected))
    assert EDITED in Path("cat_edited.png").read_bytes()


def test_every_setting_reaches_the_engine(place, loaded, capsys, monkeypatch):
    seen = {}
    real = Engine.edit

    def edit(self, image, source, target, **options):
        seen.update(options)
        return real(self, image, source, target, **options)

    monkeypatch.setattr(Engine, "edit", edit)
    Image.new("L", (80, 60), 255).save("mask.png")
    options = "--seed 7 --guidance-scale 3 --tau 0.7,0.9 --tau-low 0.1 --control refine --self-replace 0.2 --size 64x48"
    options += " --mask-from words --feather 2.5 --no-paste-back"
    words = [
        "--cross-replace",
        "default=0.3",
        "--cross-replace",
        "dog=0.1,0.6",
        "--amplify",
        "dog=2",
        "--blend",
        "cat:dog",
    ]
    command = [
        "edit",
        "cat.png",
        "--source",
        SOURCE,
        "--target",
        TARGET,
        "--mask",
        "mask.png",
        "--out",
        "a/b.jpg",
    ]
    assert main([*command, *options.split(), *words, "--quiet"]) == 0
    assert capsys.readouterr() == ("a/b.jpg\n", "")
    assert callable(seen.pop("progress"))
    assert seen == {
        "seed": 7,
        "guidance_scale": 3.0,
        "tau": (0.7, 0.9),
        "tau_low": 0.1,
        "control": "refine",
        "cross_replace": {"default": 0.3, "dog": (0.1, 0.6)},
        "self_replace": 0.2,
        "amplify": {"dog": 2.0},
        "blend": (["cat"], ["dog"]),
        "mask": "mask.png",
        "mask_from": "words",
        "feather": 2.5,
        "paste_back": False,
        "size": (64, 48),
    }
    assert Image.open("a/b.jpg").size == (64, 48)


def test_several_targets_are_numbered(place, loaded, capsys):
    Path("new_1.png").write_bytes(b"older")
    assert (
        main(
            [
                "edit",
                "cat.png",
                "--source",
                SOURCE,
                "--target",
                TARGET,
                "--target",
                OTHER,
                "--out",
                "new.png",
            ]
        )
        == 0
    )
    assert capsys.readouterr().out.split() == ["new_1.png", "new_2.png"]
    expected = loaded.edit("cat.png", SOURCE, [TARGET, OTHER]).images
    for i, picture in enumerate(expected, start=1):
        assert np.array_equal(pixels_of(f"new_{i}.png"), np.asarray(picture))
    assert files(place) == {"cat.png", "new_1.png", "new_2.png"}


def test_compare_is_source_reconstruction_edits(place, loaded):
    assert (
        main(
            [
                "edit",
                "cat.png",
                "--source",
                SOURCE,
                "--target",
                TARGET,
                "--target",
                OTHER,
                "--compare",
            ]
        )
        == 0
    )
    result = loaded.edit("cat.png", SOURCE, [TARGET, OTHER])
    panels = [
        np.asarray(p)
        for p in (Image.open("cat.png").convert("RGB"), result.reconstruction, *result.images)
    ]
    assert np.array_equal(pixels_of("cat_edited.png"), np.concatenate(panels, axis=1))


def test_automatic_settings(place, loaded, capsys):
    command = [
        "edit",
        "cat.png",
        "--source",
        SOURCE,
        "--target",
        TARGET,
        "--seed",
        "5",
        "--tau",
        "0.8",
    ]
    assert main([*command, "--auto"]) == 0
    assert "best of" in capsys.readouterr().err
    result = loaded.edit("cat.png", SOURCE, TARGET, seed=5, tau=0.8, settings="auto")
    assert np.array_equal(pixels_of("cat_edited.png"), np.asarray(result.image))
    assert main([*command, "--edits", "6", "--sheet", "sheet.png"]) == 0
    out, err = capsys.readouterr()
    assert (
        out == "sheet.png\ncat_edited.png\n" and "best of 6 settings" in err and "tau 0.80" in err
    )
    found = loaded.invert("cat.png", SOURCE, seed=5).search(TARGET, edits=6, tau=0.8)
    assert np.array_equal(pixels_of("cat_edited.png"), np.asarray(found.result.image))
    assert Image.open("sheet.png").size == (6 * 128, 128)
    check_refused(capsys, [*command, "--auto", "--target", OTHER], 2, "one --target")
    check_refused(capsys, [*command, "--sheet", "x.txt"], 2, "--sheet")


def test_a_terminal_sees_the_hops(place, small_bundle, capsys, monkeypatch):
    command = [
        "edit",
        "cat.png",
        "--source",
        SOURCE,
        "--target",
        TARGET,
        "--model",
        str(small_bundle),
    ]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(command) == 0
    assert "8/8" in capsys.readouterr().err
    assert main([*command, "--quiet"]) == 0
    assert capsys.readouterr() == ("cat_edited.png\n", "")


# --- the demonstration ----------------------------------------------------------------------------


@pytest.fixture
def demo_bundle(place, small_bundle) -> Path:
    folder = place / "model"
    shutil.copytree(small_bundle, folder)
    shutil.copy("cat.png", folder / "demo.png")
    record = {"source": SOURCE, "target": TARGET, "settings": {"self_replace": 0.6, "seed": 3}}
    (folder / "demo.json").write_text(json.dumps(record))
    return folder


def test_demo_writes_the_comparison(demo_bundle, small_engine, capsys):
    assert (
        main(["edit", "--demo", "--model", str(demo_bundle), "--device", "cpu", "--seed", "4"]) == 0
    )
    out, err = capsys.readouterr()
    assert out == "demo_edited.png\n"
    assert SOURCE in err and TARGET in err
    expected = small_engine.edit("cat.png", SOURCE, TARGET, self_replace=0.6, seed=4).image
    assert np.array_equal(pixels_of("demo_edited.png")[:, 2 * 80 :], np.asarray(expected))


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("demo.png", None, "no demonstration"),
        ("demo.json", None, "no demonstration"),
        ("demo.json", b"{", "demo.json"),
        ("demo.json", b'{"source": "a cat"}', "target"),
        ("demo.json", b'{"source": "a cat", "target": "a dog", "settings": {"tua": 1}}', "tua"),
        ("demo.png", b"", "empty"),
    ],
)
def test_a_missing_or_damaged_demo(
    demo_bundle, small_engine, monkeypatch, capsys, name, content, part
):
    monkeypatch.setattr(Engine, "load", lambda model, placement: _at(small_engine, demo_bundle))
    if content is None:
        (demo_bundle / name).unlink()
    else:
        (demo_bundle / name).write_bytes(content)
    check_refused(capsys, ["edit", "--demo"], 1, str(demo_bundle), part)
    assert not Path("demo_edited.png").exists()


def _at(engine: Engine, folder: Path) -> Engine:
    return Engine(Model(replace(engine.bundle, path=folder), engine.runner, engine.model.tokenizer))
