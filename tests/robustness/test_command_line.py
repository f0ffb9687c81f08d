"""`icd` with any text for its options: an exit code and one line, before any model is loaded."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from icd_engine.cli import main

# "-" begins options, and "--help" and "--version" end well.
TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=12).filter(
        lambda text: not text.startswith("-")
    ),
    st.sampled_from(
        [
            "0.5",
            "0.2,0.8",
            "0.8,0.2",
            "1,2,3",
            "nan",
            "1e999",
            "cat=2",
            "=2",
            "cat:dog",
            ":",
            "64x64",
            "0x0",
        ]
    ),
    st.sampled_from(
        [
            "",
            " ",
            "\0",
            "🐶",
            "replace",
            "x" * 10_000,
            "nowhere.png",
            "/",
            "a.png",
            "9" * 5000,
            "\ud800",
        ]
    ),
)
OPTIONS = [
    "--source",
    "--target",
    "--out",
    "--seed",
    "--guidance-scale",
    "--tau",
    "--tau-low",
    "--control",
    "--blend",
]
OPTIONS += [
    "--cross-replace",
    "--self-replace",
    "--amplify",
    "--mask",
    "--size",
    "--dtype",
    "--edits",
    "--sheet",
]
OPTIONS += ["--c2pa-cert", "--c2pa-key", "--unknown"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("here")
    Image.new("RGB", (8, 8)).save(path / "picture.png")
    return path


@given(
    st.lists(st.tuples(st.sampled_from(OPTIONS), TEXTS), max_size=4),
    st.sampled_from(["edit", "generate", "invert"]),
)
def test_any_text_for_any_option(place, tried, given_options, command):
    arguments = [text for pair in given_options for text in pair]
    what = "a circle" if command == "generate" else "picture.png"
    out, error = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(place),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
    ):
        code = main([command, what, *arguments, "--model", "nowhere"])
    told = error.getvalue().encode("utf-8", "backslashreplace").decode()
    assert code in (1, 2) and not out.getvalue()
    assert told.startswith("icd: error: ") and told.count("\n") == 1
    assert sorted(path.name for path in place.iterdir()) == ["picture.png"]
    tried.counts["options of icd edit, generate and invert"][f"exit code {code}"] += 1
