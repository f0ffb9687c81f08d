"""The program: suites from the command line, and what it looks for."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.evaluation import __main__ as command
from benchmarks.evaluation import page
from benchmarks.evaluation.features import FIGURES
from benchmarks.evaluation.lpips import BACKBONES
from benchmarks.evaluation.options import parser
from icd_engine.engine import Engine
from tests.benchmarks.evaluation.inverted import PICTURE


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
    assert result["edit_success"]["all"] in (0.0, 1.0) and result["network_calls"] == 9
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
