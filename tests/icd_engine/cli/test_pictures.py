"""Where edits go when nobody says: beside their picture, and not onto each other."""

from pathlib import Path

import pytest
from PIL import Image

from icd_engine.cli import main
from icd_engine.cli.pictures import beside
from tests.icd_engine.cli.written import OTHER, SOURCE, TARGET, files

PROMPTS = ["--source", SOURCE, "--target", TARGET]


def test_pictures_of_one_name_in_two_folders(place, loaded, capsys):
    for folder in ("A", "B"):
        Path(folder).mkdir()
        Image.new("RGB", (64, 64), "red" if folder == "A" else "blue").save(f"{folder}/x.png")
        assert main(["edit", f"{folder}/x.png", *PROMPTS, "-q"]) == 0
        assert capsys.readouterr().out == f"{folder}/x_edited.png\n"
    assert files(place) == {"cat.png", *(f"{a}/x{b}.png" for a in "AB" for b in ("", "_edited"))}


def test_several_targets_and_kept_inversions(place, loaded, capsys):
    Path("A").mkdir()
    Path("cat.png").rename("A/cat.png")
    assert main(["edit", "A/cat.png", *PROMPTS, "--target", OTHER, "-q"]) == 0
    assert capsys.readouterr().out.split() == ["A/cat_edited_1.png", "A/cat_edited_2.png"]
    assert main(["invert", "A/cat.png", *PROMPTS[:2], "--out", "A/kept.safetensors", "-q"]) == 0
    assert main(["edit", "A/kept.safetensors", "--target", TARGET, "-q"]) == 0
    assert capsys.readouterr().out.split() == ["A/kept.safetensors", "A/kept_edited.png"]


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (["x.png"], ["x_edited.png"]),
        (["x.jpg"], ["x_edited.png"]),
        (["x.png", "x.jpg"], ["x_edited.png", "x_edited.jpg.png"]),
        (["x.jpg", "x.webp"], ["x_edited.jpg.png", "x_edited.webp.png"]),
        (["x.png", "x.PNG"], ["x_edited.png", "x_edited.PNG.png"]),
        (["x.jpg", "x.txt", "xy.png"], ["x_edited.png", "x_edited.png", "xy_edited.png"]),
        (["x.jpg", "x.safetensors"], ["x_edited.png", "x_edited.png"]),  # of one picture
        (["x", "x.y.jpg"], ["x_edited.png", "x.y_edited.png"]),
    ],
    ids=lambda names: " ".join(names),
)
def test_pictures_of_one_name_in_one_folder(tmp_path, there, expected):
    for name in there:
        (tmp_path / name).touch()
    assert [beside(str(tmp_path / name)) for name in there] == [tmp_path / one for one in expected]


@pytest.mark.parametrize("picture", ["", "/", "no/such/x.jpg", "x" * 5000, "nul\0byte.jpg", ".jpg"])
def test_any_name_has_a_place(picture):
    """What is wrong with it, reading it says."""
    assert beside(picture).suffix == ".png"


def test_the_demonstration_is_in_the_current_folder():
    assert beside(None) == Path("demo_edited.png")
