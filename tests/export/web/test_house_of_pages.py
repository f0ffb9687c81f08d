"""How the page's modules read, counted as Python's files are."""

from __future__ import annotations

import re

from tests.export.web.node import PAGE

LONGEST_FILE = 300
WIDEST = 120
ENGINE = 1_200  # lines that are not blank and no comments, without the page and its worker
PAGES = ("app", "brush", "icd", "worker", "png")


def code_lines(text: str) -> int:
    return len([one for one in text.splitlines() if not re.match(r"\s*(/?\*|//|$)", one)])


def test_files_are_short_and_narrow():
    for path in PAGE.glob("*.js"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= LONGEST_FILE, path.name
        wide = [line for line in lines if len(line) > WIDEST and "@typedef" not in line]
        assert wide == [], path.name


def test_the_engine_is_small():
    texts = [
        path.read_text(encoding="utf-8") for path in PAGE.glob("*.js") if path.stem not in PAGES
    ]
    assert sum(map(code_lines, texts)) <= ENGINE
