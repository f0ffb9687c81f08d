"""The program `icd` of this checkout, as a process of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
CODE = "import sys; from icd_engine.cli import main; sys.exit(main())"
STDERR = 2
SOURCE = "a small red circle on a plain blue background"
TARGET = "a small green circle on a plain blue background"


def start(*arguments: str, env: dict[str, str] | None = None, **options: Any) -> psutil.Popen:
    """Runs `icd` with these arguments. What it prints goes to stderr: stdout is the result's, and
    Ray prints, too.

    env: beside this process's environment. options: of Popen.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = os.environ | {"PYTHONPATH": path} | (env or {})
    return psutil.Popen([sys.executable, "-c", CODE, *arguments], env=own, stdout=STDERR, **options)


def flags(options: dict[str, Any]) -> list[str]:
    """{"device": "cpu"} -> ["--device", "cpu"]."""
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]
