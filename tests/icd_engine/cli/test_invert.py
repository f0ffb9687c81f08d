"""`icd invert`, and edits of what it kept."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icd_engine.cli import main
from tests.icd_engine.cli.written import OTHER, SOURCE, TARGET, check_refused, pixels_of


@pytest.fixture
def kept(place, loaded, capsys) -> str:
    assert (
        main(
            [
                "invert",
                "cat.png",
                "--source",
                SOURCE,
                "--seed",
                "5",
                "--out",
                "deep/cat.safetensors",
            ]
        )
        == 0
    )
    assert capsys.readouterr().out == "deep/cat.safetensors\n"
    return "deep/cat.safetensors"


def test_a_kept_inversion_costs_the_decode_hops_only(kept, loaded, capsys):
    assert main(["edit", kept, "--target", TARGET]) == 0
    out, err = capsys.readouterr()
    assert out == "deep/cat_edited.png\n" and "5 network calls" in err
    # A file has no picture to bring detail back from
    expected = loaded.invert("cat.png", SOURCE, seed=5).edit(TARGET, detail=0.0).image
    assert np.array_equal(pixels_of("deep/cat_edited.png"), np.asarray(expected))


def test_what_was_kept_may_be_repeated(kept):
    assert (
        main(
            ["edit", kept, "--source", SOURCE, "--seed", "5", "--size", "80x48", "--target", TARGET]
        )
        == 0
    )


def test_comparing_a_kept_inversion_has_no_source_picture(kept):
    assert main(["edit", kept, "--target", TARGET, "--compare"]) == 0
    assert Image.open("deep/cat_edited.png").size == (2 * 80, 60)


@pytest.mark.parametrize(
    "other", [["--source", OTHER], ["--seed", "6"], ["--size", "32x32"]], ids=lambda o: o[0]
)
def test_what_was_kept_cannot_be_chosen_again(kept, capsys, other):
    check_refused(capsys, ["edit", kept, "--target", TARGET, *other], 1, "was inverted")
    assert not Path("deep/cat_edited.png").exists()


def test_a_damaged_inversion(place, loaded, capsys):
    Path("bad.safetensors").write_bytes(b"not one")
    check_refused(capsys, ["edit", "bad.safetensors", "--target", TARGET], 1, "bad.safetensors")
    check_refused(capsys, ["edit", "none.safetensors", "--target", TARGET], 1, "none.safetensors")
