"""Commands that are children: their exit codes, and that they end with `icd`, whatever ends it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from icd_engine.cli import child as module
from icd_engine.cli.child import run_module

CHILD = """
import sys, time
from pathlib import Path
from icd_engine.endings import exit_code

def main():
    try:
        Path("begun").touch()
        time.sleep(60)
    finally:
        time.sleep(0.2)
        Path("cleaned").touch()
    return 0

sys.exit(exit_code(main))
"""
PARENT = """
import sys
from icd_engine.cli.child import run_module
from icd_engine.endings import ended_by_signals
with ended_by_signals():
    sys.exit(run_module("long_work", []))
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*paths, str(module.ROOT)]))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("import sys; sys.exit(3)", 3),
        ("pass", 0),
        ("import os; os.kill(os.getpid(), 9)", 128 + 9),
    ],
    ids=["own", "done", "killed"],
)
def test_the_childs_exit_code(place, text, code):
    (place / "short.py").write_text(text)
    assert run_module("short", []) == code


@pytest.mark.parametrize("to_all", [False, True], ids=["icd alone", "both"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_both_and_the_child_cleans_up(place, name, to_all):
    (place / "long_work.py").write_text(CHILD)
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while not (place / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    number = getattr(signal, name)
    (os.killpg if to_all else os.kill)(process.pid, number)
    told = process.communicate(timeout=60)[1]  # the pipe closes when the child has ended, too
    assert (place / "cleaned").exists()
    assert told.count("\n") == 1 and "ended early" in told
    assert process.returncode == 128 + number
