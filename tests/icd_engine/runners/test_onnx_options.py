"""What onnxruntime does beside edits: it asks nobody, writes nothing, and keeps to its threads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from icd_engine.threads import compute_threads

pytest.importorskip("onnxruntime")

EDIT = """
import os, sys, time
import icd_engine
engine = icd_engine.Engine.from_pretrained(sys.argv[1], runner=sys.argv[4])
for _ in range(2):
    engine.edit(sys.argv[2], source="a cat", target="a dog")
print(len(os.listdir("/proc/self/task")), "torch" in sys.modules)
time.sleep(float(sys.argv[3]))
"""
# Reports go out some seconds after the start
WAIT = "6"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="counts threads of Linux")


def edited(
    folder: Path,
    picture: Path,
    before: list[str],
    wait: str = "0",
    runner: str = "onnx",
    **environment: str,
) -> str:
    """What a process of its own prints after two edits by an exported folder."""
    given = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    command = [*before, sys.executable, "-c", EDIT, str(folder), str(picture), wait, runner]
    done = subprocess.run(command, env=given | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def picture(tmp_path) -> Path:
    from PIL import Image

    Image.new("RGB", (64, 64), "gray").save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@LINUX
@pytest.mark.parametrize("runner", ["onnx", "openvino"])
def test_an_edit_writes_nothing_and_asks_nobody(exported, picture, tmp_path, runner):
    pytest.importorskip("onnxruntime" if runner == "onnx" else runner)
    home, trace = tmp_path / "home", tmp_path / "trace"
    home.mkdir()
    watch = shutil.which("strace")
    before = [watch, "-f", "-e", "trace=connect,sendto,sendmmsg", "-o", str(trace)] if watch else []
    # With CI set, as some of onnxruntime's builds have it, nothing would be sent anyway
    edited(exported, picture, before, WAIT, runner, HOME=str(home), CI="")
    assert list(home.rglob("*")) == []
    if watch:
        asked = [line for line in trace.read_text().splitlines() if re.search("AF_INET", line)]
        assert asked == []


@LINUX
@pytest.mark.parametrize("count", [1, 3])
def test_every_graph_keeps_to_the_threads_it_is_told(exported, picture, count):
    threads, has_torch = edited(exported, picture, [], OMP_NUM_THREADS=str(count)).split()
    more = int(threads) - _without_edits()
    assert has_torch == "False"
    # Of every graph, beside the caller's own thread
    graphs = 8  # of an exported folder
    assert more == 0 if count == 1 else 0 < more <= graphs * (count - 1)


def test_other_sessions_of_the_program_go_on_as_they_are(exported, picture):
    program = f"""
{EDIT}
import onnxruntime
onnxruntime.InferenceSession({str(exported / "vae_encoder" / "model.onnx")!r})
"""
    command = [sys.executable, "-c", program, str(exported), str(picture), "0", "onnx"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _without_edits() -> int:
    """Threads of a process that has only imported what edits import; onnxruntime starts one to log."""
    program = "import os, icd_engine, onnxruntime, numpy; print(len(os.listdir('/proc/self/task')))"
    given = os.environ | {"OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=given, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_a_pool_that_is_there_is_kept(exported, picture, monkeypatch):
    """A program with a global pool of its own goes on with it."""
    program = f"""
import onnxruntime
onnxruntime.set_global_thread_pool_sizes(2, 1)
options = onnxruntime.SessionOptions()
options.use_per_session_threads = False
onnxruntime.InferenceSession({str(exported / "vae_encoder" / "model.onnx")!r}, options)
{EDIT}"""
    given = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, str(exported), str(picture), "0", "onnx"]
    done = subprocess.run(command, env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_choice_of_the_user_is_kept():
    program = "import os, icd_engine; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    for given, expected in (({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")):
        environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"} | given
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True
        )
        assert done.stdout.strip() == expected
    assert compute_threads() >= 1
