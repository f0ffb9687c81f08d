"""Scratch folders go with their block, and those of killed runs with the next one; no others do."""

import os
import signal
import subprocess
import sys

import pytest

from icd_engine.bundles.scratch import OWNER, scratch_folder

RUN = """
import sys, time
from pathlib import Path
from icd_engine.bundles.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1]), sys.argv[2]) as folder:
    (folder / "half").write_text("x")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def running(tmp_path):
    """Starts a run with a scratch folder; all are killed at the end."""
    started = []

    def start(prefix: str):
        command = [sys.executable, "-c", RUN, str(tmp_path), prefix]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("error", [None, OSError, KeyboardInterrupt])
def test_a_folder_goes_with_its_block(tmp_path, error):
    try:
        with scratch_folder(tmp_path, ".x.") as folder:
            (folder / "half").write_text("x")
            assert folder.parent == tmp_path and folder.name.startswith(".x.")
            if error:
                raise error
    except (OSError, KeyboardInterrupt) as raised:
        assert type(raised) is error
    assert names(tmp_path) == set()


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_what_a_killed_run_left_goes_with_the_next(tmp_path, running):
    process, left = running(".x.")
    _, alive = running(".x.")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert os.path.exists(left)
    seen = []
    with scratch_folder(tmp_path, ".x.", lambda folder: seen.append(names(folder))):
        assert not os.path.exists(left) and os.path.exists(alive)
    assert seen == [{"half", OWNER}]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_nothing_else_goes(tmp_path, running):
    process, left = running(".x.y.")
    process.kill()
    process.wait()
    (
        tmp_path / ".x.abcdefgh"
    ).mkdir()  # without a lock it is nobody's, or that of a run that begins
    (tmp_path / ".x.abcdefg").mkdir()
    (tmp_path / ".x.abcdefg" / OWNER).touch()
    (tmp_path / ".x.file1234").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / OWNER).touch()
    (tmp_path / ".x.linked12").symlink_to(tmp_path / "elsewhere")
    before = names(tmp_path)
    with scratch_folder(tmp_path, ".x."):
        pass
    assert names(tmp_path) == before and os.path.exists(left)
    with scratch_folder(tmp_path, ".x.y."):
        assert not os.path.exists(left)


def test_a_rescue_that_fails_keeps_the_folder(tmp_path, running):
    process, left = running(".x.")
    process.kill()
    process.wait()

    def fails(folder):
        raise OSError

    with scratch_folder(tmp_path, ".x.", fails):
        assert os.path.exists(left)


def test_a_place_that_takes_no_folders_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "nowhere"):
        with pytest.raises(OSError), scratch_folder(place, ".x."):
            pass
