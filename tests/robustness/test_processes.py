"""A process forked from one that has loaded a model gets an error, and never waits for threads that
did not come along; one that was started anew, or forked before, edits."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import icd_engine
from icd_engine.engine import Engine
from icd_engine.results import EditRequest

if "fork" not in multiprocessing.get_all_start_methods():
    pytest.skip("no fork on this system", allow_module_level=True)

PATIENCE = 60  # seconds until a child counts as hanging; an answer takes milliseconds
ROOT = Path(__file__).parents[2]
SOURCE = "a small red circle on a plain blue background"
TARGET = "a small green circle on a plain blue background"
PLACED = {"device": "cpu", "dtype": "float32", "runner": "eager"}


def answered(call: Callable[[], Any], pipe: Any) -> None:
    try:
        pipe.send(("taken", repr(call())))
    except BaseException as error:
        pipe.send((type(error).__name__, str(error)))


def in_a_fork(call: Callable[[], Any]) -> tuple[str, str]:
    """What a forked process answers: the name of its error and the text."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    child = fork.Process(target=answered, args=(call, theirs))
    child.start()
    try:
        assert ours.poll(PATIENCE), "the forked process hangs"
        return ours.recv()
    finally:
        child.kill()
        child.join()


@pytest.fixture(scope="module")
def inversion(engine, picture):
    return engine.invert(picture, SOURCE, size=(32, 32))  # the engine is used


def calls(engine: Engine, kept: Any, picture: Image.Image, folder: Path) -> dict[str, Any]:
    """Every public call that could wait for a thread."""
    big = np.zeros((512, 512, 3), np.float32)  # to convert it, torch shares the work out
    torch = pytest.importorskip("torch")
    return {
        "edit": partial(engine.edit, picture, SOURCE, TARGET),
        "edit of a tensor": partial(engine.edit, torch.zeros(3, 512, 512).half(), SOURCE, TARGET),
        "invert": partial(engine.invert, picture, SOURCE),
        "invert a tensor": partial(engine.invert, torch.zeros(3, 512, 512).half(), SOURCE),
        "edit_many": partial(engine.edit_many, [EditRequest(big, SOURCE, TARGET)]),
        "generate": partial(engine.generate, SOURCE),
        "re-edit": partial(kept.edit, TARGET),
        "search": partial(kept.search, TARGET),
        "to_pictures": partial(engine.to_pictures, kept.noised),
        "save": partial(kept.save, folder / "kept.safetensors"),
        "free_memory": engine.free_memory,
        "another engine": partial(Engine.from_pretrained, "tiny", **PLACED),
        "icd_engine.edit": partial(icd_engine.edit, picture, SOURCE, TARGET, **PLACED),
    }


def test_a_used_engine_is_noticed_by_every_call(engine, inversion, picture, tmp_path):
    for name, call in calls(engine, inversion, picture, tmp_path).items():
        kind, text = in_a_fork(call)
        assert kind == "RunnerError" and "'spawn'" in text, (name, kind, text)
    assert list(tmp_path.iterdir()) == []
    assert engine.edit(picture, SOURCE, TARGET, size=(32, 32)).images  # here it goes on


def test_an_engine_that_was_only_loaded_is_noticed(picture):
    """Loading may have started threads as well: nobody can tell from outside."""
    loaded = Engine.from_pretrained("tiny", **PLACED)
    kind, text = in_a_fork(partial(loaded.edit, picture, SOURCE, TARGET))
    assert kind == "RunnerError" and "'spawn'" in text


def test_a_thread_that_was_loading_does_not_hold_up_the_fork(engine, picture):
    """The lock of `icd_engine.edit` is taken by a thread that is not in the forked process."""
    taken, done = threading.Event(), threading.Event()

    def load_slowly() -> None:
        with icd_engine._loading:
            taken.set()
            done.wait()

    other = threading.Thread(target=load_slowly)
    other.start()
    taken.wait()
    try:
        kind, _ = in_a_fork(partial(icd_engine.edit, picture, SOURCE, TARGET, **PLACED))
    finally:
        done.set()
        other.join()
    assert kind == "RunnerError"


PROGRAM = """
import multiprocessing, sys
import icd_engine

def edit(queue):
    engine = icd_engine.Engine.from_pretrained("tiny", device="cpu", dtype="float32")
    result = engine.edit(sys.argv[2], sys.argv[3], sys.argv[4], size=(32, 32), seed=5)
    queue.put(result.image.tobytes())

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    queue = context.Queue()
    if sys.argv[1] == "spawn":
        icd_engine.Engine.from_pretrained("tiny", device="cpu").edit(*sys.argv[2:], size=(32, 32))
    child = context.Process(target=edit, args=(queue,))
    child.start()
    sys.stdout.buffer.write(queue.get(timeout=300))
    child.join()
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_works(tmp_path, engine, picture, method):
    """Forked before any model was loaded; or started anew, whatever was done before."""
    (tmp_path / "program.py").write_text(PROGRAM)
    picture.save(tmp_path / "picture.png")
    command = [sys.executable, str(tmp_path / "program.py"), method]
    run = subprocess.run(
        [*command, str(tmp_path / "picture.png"), SOURCE, TARGET],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=400,
    )
    expected = engine.edit(picture, SOURCE, TARGET, size=(32, 32), seed=5).image
    assert run.returncode == 0, run.stderr.decode()
    got = np.frombuffer(run.stdout, np.uint8).astype(int)
    assert np.abs(got - np.asarray(expected).astype(int).ravel()).max() <= 1  # other threads round
