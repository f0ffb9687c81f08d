"""Which process a model belongs to: the threads it computes with do not come along when one is
forked, and whoever waits for them waits without end. And processes for what lies above the caller."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from icd_engine.endings import ending_with_parent
from icd_engine.errors import RunnerError

ROOT = Path(__file__).resolve().parents[1]  # of the packages


@cache
def first_process() -> int:
    """The id of the process that asked first; forked processes inherit the answer."""
    return os.getpid()


def forked() -> RunnerError:
    """What to raise in a process that was forked after a model had been loaded."""
    return RunnerError(
        "this process was forked from one that had loaded a model, whose threads did not come "
        "along: start processes by the 'spawn' start method (multiprocessing.get_context('spawn')) "
        "and load the model there"
    )


def of_module(module: str, arguments: Sequence[str]) -> dict[str, Any]:
    """`python -m module arguments` by this Python and of the same packages, as subprocess.Popen takes
    it. It ends with this process."""
    # -P and PYTHONPATH, not another current folder: relative paths stay the user's, and nothing
    # there is imported.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {
        "args": [sys.executable, "-P", "-m", module, *arguments],
        "env": os.environ | {"PYTHONPATH": path},
        "preexec_fn": ending_with_parent(),
    }
