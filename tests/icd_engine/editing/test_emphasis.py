"""What other programs read as weights is found in prompts, and other brackets are not."""

from __future__ import annotations

import pytest

from icd_engine.editing.words import emphasis


@pytest.mark.parametrize(
    ("prompt", "part"),
    [
        ("a (green:1.3) circle", "(green:1.3)"),
        ("a (very green circle:0.5) on blue", "(very green circle:0.5)"),
        ("a (green : 1.3 )", "(green : 1.3 )"),
        ("(green:2)", "(green:2)"),
        ("(green:.5)", "(green:.5)"),
        ("(green:-1)", "(green:-1)"),
        ("(2 cats:1.1)", "(2 cats:1.1)"),
        ("(r2d2:1.4)", "(r2d2:1.4)"),
        ("a ((green)) circle", "((green))"),
        ("a (((green))) circle", "((green))"),
        ("a [green] circle", "[green]"),
        ("a [[green]] circle", "[green]"),
        ("[red:green:0.5] circle", "[red:green:0.5]"),
        ("a cat (sleeping) and (a dog:1.2)", "(a dog:1.2)"),
    ],
)
def test_weights_are_found(prompt: str, part: str):
    assert emphasis(prompt) == part


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a small red circle",
        "a cat (sleeping)",
        "a cat (sleeping (deeply))",
        "two cats (one black) (one white)",
        "a clock (at 12:30)",
        "a map (1:25000)",
        "a ship (built 1:20, painted)",
        "a sign: (no entry)",
        "a smile :) and a frown :(",
        "a face :-) (happy)",
        "an arrow -> [",
        "[] and ()",
        "()",
        r"a \(green:1.3\) circle",
        r"a \[green\] circle",
    ],
)
def test_other_brackets_are_left_alone(prompt: str):
    assert emphasis(prompt) is None


@pytest.mark.parametrize("piece", ["(", "((", "[", "(a:", ":1", "(a:1.", ") ", " \t"])
def test_long_prompts_take_no_time(piece: str):
    """A pattern that tries again at every bracket could take minutes for these."""
    assert emphasis(piece * 2_000) is None
