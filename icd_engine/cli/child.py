"""Commands that are programs of their own: run in a child process, since what they need lies above the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import icd_engine

ROOT = Path(icd_engine.__file__).resolve().parents[1]


def run_module(module: str, arguments: Sequence[str]) -> int:
    """`python -m module arguments`; its exit code."""
    # -P and PYTHONPATH, not another current folder: relative paths stay the user's, and nothing there is imported.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-P", "-m", module, *arguments]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}).returncode
