"""A run goes on where it stopped, leaves out what is not a number, and ends in a page that needs nothing else."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from benchmarks.evaluation import __main__ as command
from benchmarks.evaluation import page
from benchmarks.evaluation.run import ROWS, read_rows, run, summary
from benchmarks.evaluation.suites import Edited, Item

PICTURE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def items(count: int = 3) -> list[Item]:
    mask = np.zeros((16, 16), bool)
    mask[:8] = True
    return [Item(f"i{i}", "color", "a", "b", lambda: PICTURE, truth=255 - PICTURE, mask=mask) for i in range(count)]


def inverting(calls: list[str]):
    def method(item: Item) -> Edited:
        calls.append(item.name)
        return Edited(255 - item.picture(), item.picture(), 8, 0.5)

    return method


def test_rows_and_their_means(tmp_path):
    calls: list[str] = []
    rows = run(items(), {"m": inverting(calls)}, tmp_path, [lambda item, made: {"edit_success": 1.0}])
    table = summary(rows)["m"]
    assert calls == ["i0", "i1", "i2"] and table["items"] == 3
    assert table["edit_psnr_to_truth"] == pytest.approx(90) and table["changed_share"] == 1.0
    assert table["inversion_psnr"] == pytest.approx(90) and table["network_calls"] == 8
    assert table["kinds"]["color"]["edit_success"] == 1.0
    assert table["background_psnr"] < 30  # everything was inverted, the background too
    assert (tmp_path / "pictures" / "m" / "i0.png").is_file()


def test_an_interrupted_run_goes_on(tmp_path):
    calls: list[str] = []
    run(items(2), {"m": inverting(calls)}, tmp_path)
    with (tmp_path / ROWS).open("a") as file:
        file.write('{"method": "m", "item": "i')  # cut while it was written
    rows = run(items(3), {"m": inverting(calls)}, tmp_path)
    assert calls == ["i0", "i1", "i2"] and [row["item"] for row in rows] == ["i0", "i1", "i2"]
    assert len(read_rows(tmp_path)) == 3


def test_rows_with_nan_are_left_out_and_counted():
    rows = [
        {"method": "m", "item": str(i), "kind": "k", "seconds": 1.0, "inversion_psnr": value}
        for i, value in enumerate((20.0, float("nan"), 30.0))
    ]
    table = summary(rows)["m"]
    assert (table["items"], table["skipped"], table["inversion_psnr"]) == (2, 1, 25.0)


def test_the_page_is_one_file(tmp_path):
    rows = run(items(), {"icd": inverting([]), "other <x>": inverting([])}, tmp_path)
    for row in rows[::2]:
        row["seconds"] = 0.1
    path = page.write(tmp_path / "report.html", "title", {"n": 3}, summary(rows), tmp_path / "pictures")
    text = path.read_text()
    assert "data:image/jpeg;base64," in text and "<svg" in text and "other &lt;x&gt;" in text
    assert "<script" not in text and text.count("src=") == text.count('src="data:')
    assert ET.parse(tmp_path / "plot.svg").getroot().tag.endswith("svg") and (tmp_path / "edits.jpg").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "pie"], "needs --path"),
        (["--methods", "magic", "--count", "1"], "unknown method 'magic'"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, arguments, message):
    assert command.main([*arguments, "--out", str(tmp_path / "e")]) == 1
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not (tmp_path / "e" / "results.json").exists()


def test_a_csv_suite_from_the_command_line(tmp_path, capsys, small_bundle):
    from PIL import Image

    Image.fromarray(PICTURE).resize((64, 64)).save(tmp_path / "p.png")
    (tmp_path / "s.csv").write_text("picture,source,target\np.png,a cat sits on the mat,a dog sits on the mat\n")
    arguments = [
        "--suite",
        "pairs",
        "--path",
        str(tmp_path / "s.csv"),
        "--model",
        str(small_bundle),
        "--json",
        "--quiet",
    ]
    assert command.main([*arguments, "--device", "cpu", "--out", str(tmp_path / "e")]) == 0
    result = json.loads(capsys.readouterr().out)["methods"]["icd"]
    assert result["network_calls"] == 8 and "edit_psnr_to_truth" not in result
    assert (tmp_path / "e" / "report.html").is_file() and (tmp_path / "e" / "results.json").is_file()


def test_generated_scenes_from_the_command_line(tmp_path, capsys):
    """The judge on pictures that the embedded model makes of prompts, three forms of guidance beside each other."""
    arguments = ["--suite", "generate", "--count", "2", "--seed", "5", "--out", str(tmp_path / "e")]
    assert command.main([*arguments, "--json", "--runner", "eager"]) == 0
    out, err = capsys.readouterr()
    methods = json.loads(out)["methods"]
    assert list(methods) == ["icd", "icd, unguided", "icd, constant guidance"]
    for row in methods.values():
        assert row["network_calls"] == 4 and 0 <= row["edit_success"] <= row["words_right"] <= 1
        assert "inversion_psnr" not in row
    assert "n/a: weights not given (--clip, --dino, --dinov2, --lpips)" in err
    from PIL import Image

    from icd_engine import Engine

    kept = Image.open(tmp_path / "e" / "pictures" / "icd" / "6.png")
    item = command._items(command._parser().parse_args(arguments))[1]
    (own,) = Engine.from_pretrained("tiny", runner="eager").generate([item.target], seed=6)
    assert np.array_equal(np.asarray(kept), np.asarray(own))


def test_missing_weights_are_shown_as_such(tmp_path, capsys, small_bundle):
    from PIL import Image

    Image.fromarray(PICTURE).resize((64, 64)).save(tmp_path / "p.png")
    (tmp_path / "s.csv").write_text("picture,source,target\np.png,a cat sits on the mat,a dog sits on the mat\n")
    suite = ["--suite", "pairs", "--path", str(tmp_path / "s.csv"), "--model", str(small_bundle), "--device", "cpu"]
    assert command.main([*suite, "--out", str(tmp_path / "e")]) == 0
    heads, values = (line.split() for line in capsys.readouterr().err.splitlines()[-4:-2])
    assert "structure_distance" in heads and values.count("n/a") >= 5
    page_text = (tmp_path / "e" / "report.html").read_text()
    assert "structure distance" in page_text and "weights not given" in page_text
