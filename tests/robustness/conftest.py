"""Inputs that nobody should send, many of them: what a property needs, and the count of what came
back.

    pytest tests/robustness                                    a few examples of each kind, as in
    every run of the tests pytest tests/robustness --hypothesis-profile=deep          many times as
    many, other ones each time, half an hour

With ICD_ROBUSTNESS_REPORT=docs/robustness.md before it, the command writes the table there.
"""

from __future__ import annotations

import os
import platform
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from icd_engine.errors import LONGEST, IcdError

if TYPE_CHECKING:
    from icd_engine.engine import Engine

REPORT = "ICD_ROBUSTNESS_REPORT"
SOURCE = "a small red circle on a plain blue background"
TARGET = "a small green circle on a plain blue background"
COMMAND = f"{REPORT}=docs/robustness.md pytest tests/robustness --hypothesis-profile=deep"

common = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
settings.register_profile("quick", max_examples=40, derandomize=True, **common)
settings.register_profile("deep", max_examples=2500, **common)


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--hypothesis-profile", default=None):
        settings.load_profile("quick")


class Tried:
    """tried(kind, call): what call() returns, or None where it raised an IcdError, which must be
    fit to be shown.

    Whatever else it raises fails the test. Counts both by kind.
    """

    def __init__(self) -> None:
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def __call__(self, kind: str, call: Callable[[], Any]) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of cut prompts, broken EXIF and the like
            try:
                result, came = call(), "taken"
            except IcdError as error:
                result, came = None, type(error).__name__
                check_text(error)
        self.counts[kind][came] += 1
        return result

    def table(self) -> str:
        columns = [
            "taken",
            *sorted({name for counts in self.counts.values() for name in counts} - {"taken"}),
        ]
        rows = [["kind of input", "tried", *columns]]
        rows += [
            [kind, counts.total(), *(counts[name] for name in columns)]
            for kind, counts in self.counts.items()
        ]
        total = sum(self.counts.values(), Counter())
        rows += [["**all**", total.total(), *(total[name] for name in columns)]]
        texts = [[f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows]
        texts.insert(1, ["---"] + ["---:"] * (len(rows[0]) - 1))
        return "\n".join(f"| {' | '.join(cells)} |" for cells in texts)


def check_text(error: IcdError) -> None:
    """One short line, no address of memory, and no more of it than what the error says."""
    text = str(error)
    assert text and len(text) <= LONGEST and len(text.splitlines()) == 1, text
    assert not re.search(r"0x[0-9a-f]{6,}|Traceback", text), text


@pytest.fixture(scope="session")
def tried() -> Iterator[Tried]:
    tried = Tried()
    yield tried
    if (path := os.environ.get(REPORT)) is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(report(tried), encoding="utf-8")


def report(tried: Tried) -> str:
    import onnxruntime
    import PIL
    import tokenizers
    import torch
    import transformers

    packages = (torch, transformers, tokenizers, onnxruntime, PIL, np)
    versions = ", ".join(f"{package.__name__} {package.__version__}" for package in packages)
    return f"""# Bad inputs, tried

[Hypothesis](https://hypothesis.readthedocs.io) makes inputs from a description of each kind:
anything at all, and good inputs with something wrong in them. An input is either taken, or answered
by one of the errors of `icd_engine.errors`. The error's text must be one line of at most {LONGEST}
characters without a memory address. Anything else fails the run. The process must live through all
inputs, and after each file of tests that has an engine a good edit must be equal to the bit to the
one before.

Some faults need no thousands of inputs and have tests of their own:

* memory that is short (`tests/icd_engine/test_shortage.py`)
* edits ended by Ctrl-C or a callback's error after every network call
  (`tests/icd_engine/test_reporting.py`)
* a full disk, pickles, and eight threads that do everything at once, some of it wrong
  (`tests/robustness`)
* processes forked after a model was loaded: an error, and no waiting for threads that did not come
  along (`tests/robustness/test_processes.py`)
* files that are overwritten: their permissions, links to them, and those that may not be written
  (`tests/robustness/test_existing_files.py`, `tests/icd_engine/test_atomic.py`)
* standard streams that are closed, full or pipes, and file names that a terminal cannot show
  (`tests/icd_engine/cli/test_streams.py`)

{tried.table()}

This page is made by

    {COMMAND}

with Python {platform.python_version()} on {platform.system()} {platform.machine()}: {versions}.
"""


@pytest.fixture(scope="session")
def engine() -> Engine:
    from icd_engine.engine import Engine

    return Engine.from_pretrained("tiny", device="cpu", dtype="float32", runner="eager")


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def unharmed(engine: Engine, picture: Image.Image) -> Iterator[None]:
    """Before and after all that a module does to the engine, a good edit is the same to the bit."""

    def edit() -> tuple[np.ndarray, ...]:
        result = engine.edit(
            picture, SOURCE, TARGET, size=(32, 32), seed=5, blend="circle", guidance_scale=3.0
        )
        return np.asarray(result.image), np.asarray(result.latents), np.asarray(result.hop_masks)

    before = edit()
    yield
    assert all(map(np.array_equal, edit(), before))
