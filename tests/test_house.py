"""How the code reads, counted: lengths and widths, whose private members are read, and what one
edit takes to be followed (`python -m tests.test_house` prints the figures)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("csrc_triton", "icd_engine", "export", "training", "benchmarks")
DATA = "tests/data/"  # not ours to shorten
WIDEST = 95  # columns that nine lines of ten keep to
PACKED = 0.03  # share of assignments that are `a, b = x, y`
LONGEST_FUNCTION = 60  # lines; of a command, those behind its signature, which is its options
LONGEST_FILE = 300
# Of ours, to follow one edit outside of networks and operations; five files read the picture.
MOST_FILES, MOST_CLASSES = 27, 27
# The one file for what torch calls private.
PRIVATE_ALLOWED = {"icd_engine/runners/inductor.py"}
# Of the standard library, and public there for all the underscore.
NOT_PRIVATE = {"_asdict", "_fields", "_replace", "_make", "_exit"}


def sources(*rooms: str) -> dict[str, str]:
    """Relative path -> text of every file of these rooms."""
    paths = [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    return {name: text for name, text in texts.items() if not name.startswith(DATA)}


SOURCES = sources(*ROOMS)
TREES = {name: ast.parse(text) for name, text in SOURCES.items()}
TESTS = sources("tests")


def width(texts: dict[str, str]) -> float:
    lines = [len(line) for text in texts.values() for line in text.splitlines()]
    return float(np.percentile(lines, 90))


def packed_share() -> float:
    assignments = [
        node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Assign)
    ]
    packed = [
        node
        for node in assignments
        if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple)
    ]
    return len(packed) / len(assignments)


def file_lengths(texts: dict[str, str]) -> Iterator[tuple[int, str]]:
    for name, text in texts.items():
        yield len(text.splitlines()), name


def function_lengths(texts: dict[str, str]) -> Iterator[tuple[int, str]]:
    for name, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0].lineno if _is_command(node) else node.lineno
                assert node.end_lineno is not None
                yield node.end_lineno - first + 1, f"{name}:{node.lineno} {node.name}"


def _is_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether its parameters are options of the command line."""
    arguments = node.args.args + node.args.kwonlyargs
    annotations = [ast.unparse(one.annotation) for one in arguments if one.annotation is not None]
    return any("typer." in text for text in annotations)


def private_reads() -> Iterator[str]:
    """Private members that a file reads of what it does not define itself."""
    for name, tree in TREES.items():
        if name in PRIVATE_ALLOWED:
            continue
        own = {node.attr for node in ast.walk(tree) if _is_stored(node)}
        own |= {node.name for node in ast.walk(tree) if isinstance(node, _DEFINITIONS)}
        own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        for node in ast.walk(tree):
            for read in _private_names(node):
                if read not in own and read not in NOT_PRIVATE:
                    yield f"{name}:{node.lineno} {read}"


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _is_stored(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)


def _private_names(node: ast.AST) -> list[str]:
    """The private names of one attribute or import."""
    if isinstance(node, ast.Attribute):
        of_object = not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
        names = [node.attr] if of_object else []
    elif isinstance(node, ast.ImportFrom):
        names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
    elif isinstance(node, ast.Import):
        names = [part for alias in node.names for part in alias.name.split(".")]
    else:
        names = []
    return [name for name in names if name.startswith("_") and not name.startswith("__")]


def too_long(lengths: Iterable[tuple[int, str]], longest: int) -> list[str]:
    return [where for length, where in lengths if length > longest]


def test_lines_are_narrow():
    assert width(SOURCES) <= WIDEST
    assert width(TESTS) <= WIDEST


def test_assignments_are_one_a_line():
    assert packed_share() <= PACKED


def test_functions_fit_a_screen():
    assert too_long(function_lengths(SOURCES | TESTS), LONGEST_FUNCTION) == []


def test_files_are_short():
    assert too_long(file_lengths(SOURCES | TESTS), LONGEST_FILE) == []


def test_what_is_too_long_is_found():
    """By one line, whether a function stands alone or in a class, and whether it waits."""
    line = "\n    x = 1"
    indented = "\n        x = 1"
    texts = {
        "fits.py": "def f():" + line * (LONGEST_FUNCTION - 1),
        "alone.py": "def f():" + line * LONGEST_FUNCTION,
        "within.py": "class A:\n    def f(self):" + indented * LONGEST_FUNCTION,
        "waits.py": "async def f():" + line * LONGEST_FUNCTION,
        "full.py": "x = 1\n" * LONGEST_FILE,
        "over.py": "x = 1\n" * (LONGEST_FILE + 1),
    }
    found = ["alone.py:1 f", "within.py:2 f", "waits.py:1 f"]
    assert too_long(function_lengths(texts), LONGEST_FUNCTION) == found
    assert too_long(file_lengths(texts), LONGEST_FILE) == ["over.py"]


def test_private_members_are_read_where_they_are_defined():
    assert list(private_reads()) == []


# --- following one edit ---------------------------------------------------------------------------


class Followed:
    """Files whose code runs, and classes whose code runs or that are made, while it is on."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.classes: set[str] = set()

    def __enter__(self) -> Followed:
        sys.setprofile(self._called)
        return self

    def __exit__(self, *_: Any) -> None:
        sys.setprofile(None)

    def _called(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call":
            return
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT / "icd_engine"):
            self.files.add(path.relative_to(ROOT).as_posix())
        owner = _owner(frame)
        if owner is not None and owner.__module__.startswith("icd_engine."):
            self.classes.add(f"{owner.__module__}.{owner.__qualname__}")


def _owner(frame: FrameType) -> type | None:
    """The class that the called function belongs to; of those that dataclasses and named tuples
    generate, too."""
    names = ("self", "_cls", "cls")
    first = next((frame.f_locals[name] for name in names if name in frame.f_locals), None)
    if first is None:
        return None
    kind = first if isinstance(first, type) else type(first)
    code = frame.f_code
    name = "__new__" if code.co_name == "<lambda>" else code.co_name
    for base in kind.__mro__:
        function = base.__dict__.get(name)
        function = getattr(function, "fget", None) or getattr(function, "func", None) or function
        function = getattr(function, "__func__", function)
        while function is not None and getattr(function, "__code__", None) is not code:
            function = getattr(function, "__wrapped__", None)
        if function is not None:
            return base
    return kind


def follow_an_edit() -> tuple[list[str], list[str]]:
    """Files and classes of ours that a plain edit of the embedded model by the eager runner takes."""
    from icd_engine import Engine

    engine = Engine.from_pretrained("tiny", device="cpu", dtype="float32", runner="eager")
    with Followed() as followed:
        engine.edit(
            ROOT / "icd_engine" / "bundles" / "tiny" / "demo.png",
            "a large purple heart on a plain orange background",
            "a large blue heart on a plain orange background",
            auto=False,
        )
    files = sorted(name for name in followed.files if "/networks/" not in name)
    classes = sorted(name for name in followed.classes if ".networks." not in name)
    return files, classes


def test_an_edit_can_be_followed():
    files, classes = follow_an_edit()
    assert len(files) <= MOST_FILES, files
    assert len(classes) <= MOST_CLASSES, classes
    # What counts is that the count counts.
    assert {"icd_engine/engine.py", "icd_engine/runners/eager.py"} <= {*files}
    assert {"icd_engine.engine.Engine", "icd_engine.results.EditResult"} <= {*classes}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import torch._dynamo", ["_dynamo"]),
        ("from torch._inductor import config", ["_inductor"]),
        ("from torch.utils import _pytree", ["_pytree"]),
        ("engine._hops", ["_hops"]),
        ("self._hops", []),
        ("record.__dict__", []),
    ],
)
def test_private_names_are_found(text: str, found: list[str]):
    nodes = list(ast.walk(ast.parse(text)))
    assert [name for node in nodes for name in _private_names(node)] == found


def main() -> None:
    files, classes = follow_an_edit()
    everything = SOURCES | TESTS
    longest_file, _ = max(file_lengths(everything))
    longest, _ = max(function_lengths(everything))
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    print(f"commit {commit.stdout.strip()}")
    print(f"files {len(SOURCES)}, lines {sum(len(t.splitlines()) for t in SOURCES.values())}")
    print(f"longest file {longest_file} lines, longest function {longest} lines, tests included")
    print(f"nine lines of ten in {width(SOURCES):.0f} columns, of tests in {width(TESTS):.0f}")
    print(f"assignments with several values {100 * packed_share():.1f} %")
    print(f"one edit: {len(files)} files, {len(classes)} classes outside of networks")
    print("\n".join([*files, *classes]))


if __name__ == "__main__":
    main()
