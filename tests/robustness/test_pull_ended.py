"""A published model from an empty cache by one command; the same when it is killed again and again, at
whatever point, and what the sources are asked for then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.icd_engine.bundles.stub_sources import MIRROR, contents, serving

ROOT = Path(__file__).parents[2]
TEACHER, LORAS = "sd15_cfg_distill.pt.tar.gz", "iCD-SD15_4steps_1.tar.gz"
TEXT_ENCODER = "text_encoder/model.safetensors"
# The hub's client writes 10 MB at a time, which is more than these files have
PROGRAM = """
import sys
from huggingface_hub import constants
constants.DOWNLOAD_CHUNK_SIZE = 1 << 14
from icd_engine.cli import main
sys.exit(main())
"""
SLOW = """
import time
from icd_engine.bundles import {module} as module
real = module.{name}
def slow(*arguments, **options):
    print("reached", flush=True)
    time.sleep(60)
module.{name} = slow
"""


@pytest.fixture
def server(tmp_path):
    with serving(contents()) as server:
        yield server


class Command:
    """`icd` in a folder and with a cache of its own."""

    def __init__(self, server, folder: Path):
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "ICD_YES"},
            **server.environment,
            "ICD_HOME": str(folder / "home"),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        Image.linear_gradient("L").convert("RGB").save(folder / "photo.png")

    def start(self, *arguments: str, before: str = "") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", before + PROGRAM, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """(exit code, stdout, stderr)."""
        child = self.start(*arguments)
        out, err = child.communicate(timeout=120)
        return child.returncode, out, err

    def edit(self, *options: str) -> tuple[int, str, str]:
        prompts = ("--source", "a cat sits on the mat", "--target", "a dog sits on the mat")
        small = ("--size", "64x64", "--runner", "eager", "--device", "cpu")
        return self.run("edit", "photo.png", "--model", "icd-sd15", *prompts, *small, *options)


@pytest.fixture
def icd(server, tmp_path) -> Command:
    return Command(server, tmp_path)


def test_one_command_from_nothing_to_a_picture(server, icd):
    code, out, err = icd.edit("--yes")
    assert (code, out) == (0, "photo_edited.png\n"), err
    assert Image.open(icd.folder / "photo_edited.png").size == (64, 64)
    before = [*server.asked]
    assert [path for method, path, _ in before if method == "GET" and "unet/diff" in path] == []
    (icd.folder / "photo_edited.png").unlink()
    code, out, err = icd.edit()  # a second edit asks nobody, and for nothing
    assert (code, out) == (0, "photo_edited.png\n"), err
    assert server.asked == before and "downloading" not in err


def test_without_a_network_one_line_says_so(server, icd):
    icd.environment |= {"HF_ENDPOINT": "http://127.0.0.1:1", "ICD_MIRROR": "http://127.0.0.1:1"}
    code, out, err = icd.edit("--yes")
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert (
        err.startswith("icd: error: http://127.0.0.1:1/stable-diffusion-v1-5/") and "mirror" in err
    )
    icd.environment["HF_HUB_OFFLINE"] = "1"
    code, out, err = icd.edit("--yes")
    assert (code, out) == (1, "") and "(HF_HUB_OFFLINE is set)" in err and err.count("\n") == 1


def ended_while_downloading(server, icd, path: str, after: int, number: int) -> None:
    """A run that is ended once the server has sent `after` bytes of a file and its client has had
    time to write them."""
    server.stalled.clear()
    server.stall = {path: after}
    child = icd.start("pull", "icd-sd15", "--yes")
    assert server.stalled.wait(60), child.communicate(timeout=5)
    time.sleep(0.3)
    _end(child, number)
    server.stall = {}
    server.go_on.set()
    server.go_on.clear()


def ended_at(icd, module: str, name: str, number: int) -> None:
    """A run that is ended when it calls a function of `icd_engine.bundles`."""
    child = icd.start("pull", "icd-sd15", "--yes", before=SLOW.format(module=module, name=name))
    assert child.stdout is not None and child.stdout.readline() == "reached\n"
    _end(child, number)


def _end(child: subprocess.Popen[str], number: int) -> None:
    child.send_signal(number)
    _, err = child.communicate(timeout=30)
    assert child.returncode == (-9 if number == signal.SIGKILL else 128 + number), err


def test_killed_once_while_downloading_and_once_while_converting(server, icd):
    ended_while_downloading(server, icd, f"{MIRROR}/{TEACHER}", 1_000_000, signal.SIGKILL)
    ended_at(icd, "bundle", "write_record", signal.SIGKILL)
    code, out, err = icd.run("pull", "icd-sd15", "--yes")
    home = icd.folder / "home"
    assert (code, out) == (0, f"{home / 'models' / 'icd-sd15'}\n"), err
    assert [path.name for path in (home / "models").iterdir()] == ["icd-sd15"]
    first, second = [start for m, p, start in server.asked if m == "GET" and p.endswith(TEACHER)]
    assert first == 0 and 1_000_000 - (1 << 15) <= second <= 1_000_000


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "ended"])
def test_ended_at_ten_points(server, icd, number):
    """Each run is ended later than the one before, and the last one ends by itself."""
    hub = next(
        path for path in server.files if path.endswith(f"v1-5/resolve/{'a' * 40}/{TEXT_ENCODER}")
    )
    teacher, loras = (f"{MIRROR}/{name}" for name in (TEACHER, LORAS))
    size = {path: len(server.files[path]) for path in (hub, teacher, loras)}

    ended_at(icd, "pull", "list_source", number)
    ended_at(icd, "pull", "_check_room", number)
    for path, share in ((hub, 0.5), (teacher, 0.1), (teacher, 0.5), (teacher, 0.9), (loras, 0.5)):
        ended_while_downloading(server, icd, path, int(size[path] * share), number)
    ended_at(icd, "sources", "_unpack", number)
    ended_at(icd, "convert", "fuse", number)
    ended_at(icd, "bundle", "write_record", number)

    assert icd.run("models")[1].count(" here ") == 1  # tiny
    code, out, err = icd.run("pull", "icd-sd15", "--yes")
    assert code == 0, err
    home = icd.folder / "home"
    assert out == f"{home / 'models' / 'icd-sd15'}\n"
    assert [path.name for path in (home / "models").iterdir()] == ["icd-sd15"]
    assert not [*home.rglob("*.part")]

    begun = {path: [s for m, p, s in server.asked if m == "GET" and p == path] for path in size}
    begun[hub] = [s for m, p, s in server.asked if m == "GET" and p.endswith(f"/{TEXT_ENCODER}")]
    assert [len(starts) for starts in begun.values()] == [2, 4, 2]  # and none twice from its start
    for path, shares in ((hub, [0.5]), (teacher, [0.1, 0.5, 0.9]), (loras, [0.5])):
        assert begun[path][0] == 0
        for start, share in zip(begun[path][1:], shares, strict=True):
            assert size[path] * share - (1 << 15) <= start <= size[path] * share
