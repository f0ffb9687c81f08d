"""Edits in a row: what changes between turns, and what the figures are of."""

import itertools
import json

import numpy as np
import pytest

from benchmarks.evaluation import turns
from benchmarks.evaluation.suites import Edited, Item
from benchmarks.evaluation.turns import edited_in_turn, walk
from training.world.drawing import draw
from training.world.scenes import parse_caption


def truthful(item: Item) -> Edited:
    """The exact edit."""
    assert item.truth is not None
    return Edited(item.truth, None, 1, 0.0)


def fading(item: Item) -> Edited:
    """Every pixel a level brighter than before."""
    return Edited(np.clip(item.picture().astype(int) + 1, 0, 255).astype(np.uint8), None, 1, 0.0)


def test_only_the_colour_changes_and_it_changes_every_turn():
    path = walk(5, 0, 10)
    words = [parse_caption(scene.caption) for scene in path.scenes]
    assert len(words) == 11 and path.mask.any() and not path.mask.all()
    for before, after in itertools.pairwise(words):
        assert [kind for kind in before if before[kind] != after[kind]] == ["color"]
    for scene in path.scenes:
        assert (draw(scene) == path.picture)[~path.mask].all()
    assert walk(5, 0, 10).scenes == path.scenes != walk(5, 1, 10).scenes


def test_each_turn_edits_what_the_last_one_made():
    path = walk(5, 0, 3)
    seen = []

    def noting(item: Item) -> Edited:
        seen.append((item.picture().copy(), item.source, item.target))
        return fading(item)

    rows = edited_in_turn(path, noting, lambda item, made: {"edit_success": 0.0})
    captions = [scene.caption for scene in path.scenes]
    assert [pair[1:] for pair in seen] == list(itertools.pairwise(captions))
    assert (seen[0][0] == path.picture).all() and (seen[1][0] == path.picture + 1).all()
    # Against the first picture: one, two and three levels off
    expected = [20 * np.log10(255 / level) for level in (1, 2, 3)]
    assert [row["background_psnr"] for row in rows] == pytest.approx(expected)
    assert [row["background_equal"] for row in rows] == [0.0] * 3


def test_exact_edits_keep_everything():
    rows = turns.turns([walk(5, index, 4) for index in range(3)], {"exact": truthful})
    assert [row["turn"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert row["background_psnr"] == 90 and row["background_equal"] == 1.0
        assert row["edit_success"] == 1.0 and row["background_shift"] in (0.0, None)


def test_from_the_command_line(capsys):
    arguments = ["--count", "1", "--turns", "2", "--methods", "icd,icd-masked"]
    assert turns.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["method"], row["turn"]) for row in found["turns"]] == [
        ("icd", 1),
        ("icd", 2),
        ("icd-masked", 1),
        ("icd-masked", 2),
    ]
    assert found["count"] == 1 and found["seed"] == 2026 and found["where"]["device"]
    assert turns.main([*arguments, "--methods", "magic"]) == 1
    assert "unknown method 'magic'" in capsys.readouterr().err
