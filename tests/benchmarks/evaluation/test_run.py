"""A run goes on where it stopped, leaves out what is not a number, and ends in a page that needs
nothing else."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.evaluation import __main__ as command
from benchmarks.evaluation import page
from benchmarks.evaluation.features import FIGURES
from benchmarks.evaluation.lpips import BACKBONES
from benchmarks.evaluation.options import parser
from benchmarks.evaluation.run import ROWS, evaluate, generated, read_rows, summary
from benchmarks.evaluation.suites import Edited, Item
from icd_engine.engine import Engine

PICTURE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def items(count: int = 3) -> list[Item]:
    mask = np.zeros((16, 16), bool)
    mask[:8] = True
    return [
        Item(f"i{i}", "color", "a", "b", lambda: PICTURE, truth=255 - PICTURE, mask=mask)
        for i in range(count)
    ]


def inverting(calls: list[str]):
    def method(item: Item) -> Edited:
        calls.append(item.name)
        return Edited(255 - item.picture(), item.picture(), 8, 0.5)

    return method


def test_rows_and_their_means(tmp_path):
    calls: list[str] = []
    rows = evaluate(
        items(), {"m": inverting(calls)}, tmp_path, [lambda item, made: {"edit_success": 1.0}]
    )
    table = summary(rows)["m"]
    assert calls == ["i0", "i1", "i2"] and table["items"] == 3
    assert table["edit_psnr_to_truth"] == pytest.approx(90) and table["changed_share"] == 1.0
    assert table["inversion_psnr"] == pytest.approx(90) and table["network_calls"] == 8
    assert table["kinds"]["color"]["edit_success"] == 1.0
    assert table["background_psnr"] < 30  # everything was inverted, the background too
    assert [(tmp_path / row["picture"]).is_file() for row in rows] == [True] * 3


def test_an_interrupted_run_goes_on(tmp_path):
    calls: list[str] = []
    evaluate(items(2), {"m": inverting(calls)}, tmp_path)
    with (tmp_path / ROWS).open("a") as file:
        file.write('{"method": "m", "item": "i')  # cut while it was written
    rows = evaluate(items(3), {"m": inverting(calls)}, tmp_path)
    assert calls == ["i0", "i1", "i2"] and [row["item"] for row in rows] == ["i0", "i1", "i2"]
    assert len(read_rows(tmp_path)) == 3


def test_rows_of_another_run_neither_count_nor_go(tmp_path):
    """Another model, other settings, another prompt under the same name: all would be other
    pictures."""
    calls: list[str] = []
    method = {"m": inverting(calls)}
    first = evaluate(items(1), method, tmp_path, about="w 4")
    assert len(evaluate(items(1), method, tmp_path, about="w 0")) == 1 and calls == ["i0", "i0"]
    other = Item("i0", "color", "a", "another b", lambda: PICTURE)
    assert len(evaluate([other], method, tmp_path, about="w 4")) == 1 and calls == ["i0"] * 3
    assert evaluate(items(1), method, tmp_path, about="w 4") == first and calls == ["i0"] * 3
    assert (
        len(read_rows(tmp_path)) == 3 and len({row["picture"] for row in read_rows(tmp_path)}) == 3
    )


def test_the_table_is_of_the_items_asked_for_and_of_every_method_so_far(tmp_path):
    evaluate(items(3), {"one": inverting([])}, tmp_path)
    table = summary(evaluate(items(2), {"two": inverting([])}, tmp_path))
    assert {name: row["items"] for name, row in table.items()} == {"one": 2, "two": 2}


def test_an_edit_of_everything_has_no_background_and_still_counts(tmp_path):
    """PIE-Bench masks whole pictures where the style is to change."""
    everything = Item("i0", "change style", "a", "b", lambda: PICTURE, mask=np.ones((16, 16), bool))
    row = summary(evaluate([everything], {"m": inverting([])}, tmp_path))["m"]
    assert (row["items"], row["skipped"]) == (1, 0) and row["inversion_psnr"] == pytest.approx(90)
    assert [row[f"background_{name}"] for name in ("psnr", "ssim", "mse")] == [None] * 3


def test_rows_with_nan_are_left_out_and_counted():
    rows = [
        {"method": "m", "item": str(i), "kind": "k", "seconds": 1.0, "inversion_psnr": value}
        for i, value in enumerate((20.0, float("nan"), 30.0))
    ]
    table = summary(rows)["m"]
    assert (table["items"], table["skipped"], table["inversion_psnr"]) == (2, 1, 25.0)


def test_the_page_is_one_file(tmp_path):
    rows = evaluate(items(), {"icd": inverting([]), "other <x>": inverting([])}, tmp_path)
    for row in rows[::2]:
        row["seconds"] = 0.1
    pictures = {"icd": [tmp_path / row["picture"] for row in rows if row["method"] == "icd"]}
    claims = [{"claim": "a < b", "holds": False, "figures": "1 dB"}]
    path = page.write(tmp_path / "report.html", "title", {"n": 3}, summary(rows), pictures, claims)
    text = path.read_text()
    assert (
        text.count("data:image/jpeg;base64,") == 1 and "<svg" in text and "other &lt;x&gt;" in text
    )
    assert "a &lt; b<td>does not hold<td>1 dB" in text
    assert "<script" not in text and text.count("src=") == text.count('src="data:')
    assert (
        ET.parse(tmp_path / "plot.svg").getroot().tag.endswith("svg")
        and (tmp_path / "edits.jpg").is_file()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "pie"], "needs --path"),
        (["--methods", "magic", "--count", "1"], "unknown method 'magic'"),
        (["--suite", "generate", "--methods", "ddim"], "ways to edit"),
        (
            ["--suite", "generate", "--settings", '{"control": "none"}'],
            "generating has no 'control'",
        ),
        (["--settings", "{"], "not JSON"),
        (["--settings", "[1]"], "settings must map"),
        (["--settings", '{"guidance": 3}'], "unknown setting 'guidance'"),
        (["--studies", "nowhere.json"], "nowhere.json holds no studies"),
        (["--clip", "nowhere", "--count", "1"], "nowhere holds no weights"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, arguments, message):
    assert command.main([*arguments, "--out", str(tmp_path / "e")]) == 1
    err = capsys.readouterr().err
    assert (
        message in err and err.count("\n") == 1 and not (tmp_path / "e" / "results.json").exists()
    )


@pytest.fixture
def pair(tmp_path, small_bundle) -> list[str]:
    """Arguments of a suite of one pair."""
    Image.fromarray(PICTURE).resize((64, 64)).save(tmp_path / "p.png")
    (tmp_path / "s.csv").write_text(
        "picture,source,target\np.png,a cat sits on the mat,a dog sits on the mat\n"
    )
    return [
        "--suite",
        "pairs",
        "--path",
        str(tmp_path / "s.csv"),
        "--model",
        str(small_bundle),
        "--device",
        "cpu",
    ]


def test_a_csv_suite_from_the_command_line(tmp_path, capsys, pair):
    assert command.main([*pair, "--json", "--quiet", "--out", str(tmp_path / "e")]) == 0
    result = json.loads(capsys.readouterr().out)["methods"]["icd"]
    assert result["network_calls"] == 8 and "edit_psnr_to_truth" not in result
    assert (tmp_path / "e" / "report.html").is_file() and (
        tmp_path / "e" / "results.json"
    ).is_file()


def cells(markdown: str) -> dict[str, list[str]]:
    """The lines of a table, by their first cell."""
    lines = [line.strip("| ").split("|") for line in markdown.splitlines() if line.startswith("|")]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def test_missing_weights_are_shown_as_such(tmp_path, capsys, pair):
    assert command.main([*pair, "--out", str(tmp_path / "e")]) == 0
    err = capsys.readouterr().err
    found = {name: cell for name, (cell,) in cells(err).items()}
    looked_for = [page.COLUMNS[figure][0] for figures in FIGURES.values() for figure in figures]
    assert [found[heading] for heading in looked_for] == ["n/a (weights not given)"] * len(
        looked_for
    )
    assert (
        found["network calls"] == "8"
        and "weights not given: --clip, --dino, --dinov2, --lpips" in err
    )
    text = (tmp_path / "e" / "report.html").read_text()
    assert all(f"<th>{heading}" in text for heading in looked_for)
    assert text.count("<td>n/a (weights not given)") == len(looked_for)


def test_given_weights_are_looked_through(tmp_path, capsys, pair):
    pytest.importorskip("torchmetrics")
    torch.manual_seed(0)
    squeezenet = BACKBONES["squeeze"][0]()
    torch.save(
        {f"features.{key}": value for key, value in squeezenet.state_dict().items()},
        tmp_path / "s.pth",
    )
    arguments = [*pair, "--lpips", str(tmp_path / "s.pth"), "--out", str(tmp_path / "e"), "--json"]
    assert command.main(arguments) == 0
    out, err = capsys.readouterr()
    result, found = json.loads(out), cells(err)
    assert result["weights"] == {"lpips": str(tmp_path / "s.pth")}
    assert found["inversion LPIPS"] == [f"{result['methods']['icd']['inversion_lpips']:.4f}"]
    assert found["background LPIPS"] == ["n/a"]  # the weights are there, a mask is not
    assert found["CLIP whole"] == ["n/a (weights not given)"]


def test_the_worlds_own_suite_stays_narrow(tmp_path, capsys):
    arguments = [
        "--suite",
        "tiny",
        "--count",
        "1",
        "--runner",
        "eager",
        "--out",
        str(tmp_path / "e"),
        "--json",
    ]
    assert command.main(arguments) == 0
    out, err = capsys.readouterr()
    assert "CLIP whole" not in cells(err) and "weights not given: --clip" in err
    result = json.loads(out)
    assert result["edit_success"]["all"] in (0.0, 1.0) and result["network_calls"] == 8
    assert all(set(claim) == {"claim", "holds", "figures"} for claim in result["orderings"])
    assert "Dynamic guidance keeps at least as much" in (tmp_path / "e" / "report.html").read_text()


def test_an_exported_model_is_evaluated_too(tmp_path, capsys, exported):
    from PIL import Image

    Image.fromarray(PICTURE).resize((64, 64)).save(tmp_path / "p.png")
    (tmp_path / "s.csv").write_text(
        "picture,source,target\np.png,a cat sits on the mat,a dog sits on the mat\n"
    )
    suite = [
        "--suite",
        "pairs",
        "--path",
        str(tmp_path / "s.csv"),
        "--model",
        str(exported),
        "--device",
        "cpu",
    ]
    assert command.main([*suite, "--json", "--quiet", "--out", str(tmp_path / "e")]) == 0
    assert json.loads(capsys.readouterr().out)["methods"]["icd"]["network_calls"] == 8
    assert json.loads((tmp_path / "e" / "results.json").read_text())["where"]["device"]


def test_generated_scenes_from_the_command_line(tmp_path, capsys):
    """The judge on pictures that the embedded model makes of prompts, three forms of guidance
    beside each other."""
    arguments = ["--suite", "generate", "--count", "2", "--seed", "5", "--out", str(tmp_path / "e")]
    assert command.main([*arguments, "--json", "--runner", "eager"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result["methods"]) == ["icd", "icd, unguided", "icd, constant guidance"]
    for row in result["methods"].values():
        assert row["network_calls"] == 4 and 0 <= row["prompt_success"] <= 1
        assert "inversion_psnr" not in row and "clip_whole" not in row
    success = result["prompt_success"]
    assert list(success) == ["all", "size", "color", "shape", "texture", "background"]
    assert success["all"] == pytest.approx(
        np.mean([success[kind] for kind in list(success)[1:]]), abs=1e-4
    )
    (kept,) = (tmp_path / "e" / "pictures" / "icd").glob("6-*.png")
    item = command._items(parser().parse_args(arguments))[1]
    (own,) = Engine.from_pretrained("tiny", runner="eager").generate([item.target], seed=6)
    assert np.array_equal(np.asarray(Image.open(kept)), np.asarray(own))


def test_prompts_of_a_file_have_clip_alone_to_look_for(tmp_path, capsys, small_bundle):
    (tmp_path / "p.txt").write_text("a cat sits on the mat\n")
    suite = [
        "--suite",
        "generate",
        "--path",
        str(tmp_path / "p.txt"),
        "--model",
        str(small_bundle),
        "--device",
        "cpu",
    ]
    assert command.main([*suite, "--out", str(tmp_path / "e")]) == 0
    assert list(cells(capsys.readouterr().err)) == [
        "figure",
        "-" * 13,
        "CLIP whole",
        "network calls",
        "seconds",
    ]


def test_a_suite_of_nothing_is_one_line(tmp_path, capsys):
    (tmp_path / "p.txt").write_text("\n")
    arguments = [
        "--suite",
        "generate",
        "--path",
        str(tmp_path / "p.txt"),
        "--out",
        str(tmp_path / "e"),
    ]
    assert command.main(arguments) == 1
    assert "p.txt has nothing in it" in capsys.readouterr().err and not (tmp_path / "e").exists()


def test_two_passes_are_counted_as_two_calls(two_pass_bundle):
    engine = Engine.from_pretrained(two_pass_bundle, device="cpu")
    item = Item("0", "prompt", "a cat", "a cat", None)
    assert [generated(engine, guidance_scale=w, tau=1.0)(item).calls for w in (0.0, 4.0)] == [4, 8]
