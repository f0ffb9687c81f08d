"""A run goes on where it stopped, and leaves out what is not a number."""

import numpy as np
import pytest

from benchmarks.evaluation.run import BACKGROUND, ROWS, evaluate, generated, read_rows, summary
from benchmarks.evaluation.suites import Item
from icd_engine.engine import Engine
from tests.benchmarks.evaluation.inverted import PICTURE, inverting, items


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
    assert table["background_equal"] == 0
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
    assert [row[f"background_{name}"] for name in BACKGROUND] == [None] * 5


def test_rows_with_nan_are_left_out_and_counted():
    rows = [
        {"method": "m", "item": str(i), "kind": "k", "seconds": 1.0, "inversion_psnr": value}
        for i, value in enumerate((20.0, float("nan"), 30.0))
    ]
    table = summary(rows)["m"]
    assert (table["items"], table["skipped"], table["inversion_psnr"]) == (2, 1, 25.0)


def test_two_passes_are_counted_as_two_calls(two_pass_bundle):
    engine = Engine.from_pretrained(two_pass_bundle, device="cpu")
    item = Item("0", "prompt", "a cat", "a cat", None)
    assert [generated(engine, guidance_scale=w, tau=1.0)(item).calls for w in (0.0, 4.0)] == [4, 8]
