"""`python -m training.world`: what it writes, and what it refuses."""

import json

import numpy as np
import pytest
from PIL import Image

from training.world.__main__ import main
from training.world.pairs import sample_pairs


def test_command_writes_pairs_json_with_its_pictures_and_repeats_itself(tmp_path, capsys) -> None:
    for name in ("one", "two"):
        main(["--pairs", "4", "--seed", "7", "--out", str(tmp_path / name)])
    assert capsys.readouterr().out.splitlines()[0] == str(tmp_path / "one" / "pairs.json")
    entries = json.loads((tmp_path / "one" / "pairs.json").read_text())
    assert [entry["kind"] for entry in entries] == ["color", "background", "shape", "color"]
    for entry, pair in zip(entries, sample_pairs(4, seed=7), strict=True):
        assert set(entry) == {"picture", "truth", "mask", "source", "target", "kind"}
        assert (entry["source"], entry["target"]) == (pair.source, pair.target)
        for name in ("picture", "truth"):
            np.testing.assert_array_equal(
                np.asarray(Image.open(tmp_path / "one" / entry[name])), getattr(pair, name)
            )
        np.testing.assert_array_equal(
            np.asarray(Image.open(tmp_path / "one" / entry["mask"])), pair.mask * np.uint8(255)
        )
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 13
    assert all(
        (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        for name in files
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to do"),
        (["--pairs", "4"], "--out"),
        (["--pairs", "0", "--out", "x"], "above 0"),
        (["--pairs", "4", "--out", "x", "--kinds", "color,mood"], "unknown kind 'mood'"),
    ],
    ids=["nothing", "no-out", "no-pairs", "unknown-kind"],
)
def test_command_refuses_with_one_line(arguments: list[str], message: str, capsys) -> None:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]


def test_contact_sheet_is_written(tmp_path) -> None:
    main(["--sheet", str(tmp_path / "sheet.png")])
    assert Image.open(tmp_path / "sheet.png").size == (6 * 148, 8 * 164)
