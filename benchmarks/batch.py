"""What `icd batch` makes of many pictures, whether or not its worker and then its driver are killed
on the way."""

from __future__ import annotations

import csv
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks import program
from benchmarks.checks import Refused
from benchmarks.program import SOURCE, TARGET

SIDE = 128  # of the pictures, pixels
PATIENCE = 240.0  # seconds for a run to get on
# Shares of the rows that are done when the worker is killed, and when the driver is
LOST_SHARE = 0.16
ENDED_SHARE = 0.24


def measure_batch(
    *, model: str, runner: str, device: str, dtype: str, pictures: int
) -> dict[str, Any]:
    """Two runs over the same manifest, one in a hundred files cut short; the second loses its
    worker and its driver.

    Raises Refused where the two do not end with the very same pictures and lines.
    """
    options = {"model": model, "runner": runner, "device": device, "dtype": dtype}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broken = range(3, pictures, 100)
        manifest = write_manifest(folder, pictures, broken)
        whole = folder / "whole"
        disturbed = folder / "disturbed"
        finish(start(manifest, whole, **options))
        lost_at = disturb(manifest, disturbed, pictures, **options)
        finish(start(manifest, disturbed, **options))
        check_same(whole, disturbed, pictures, len(broken))
        undisturbed, resumed = (
            json.loads((out / "summary.json").read_text()) for out in (whole, disturbed)
        )
    return {
        "model": model,
        "runner": runner,
        "dtype": dtype,
        "rows": pictures,
        "pictures": undisturbed["pictures"],
        "errors": undisturbed["errors"],
        "seconds": undisturbed["seconds"],
        "pictures_per_s": undisturbed["pictures_per_second"],
        "worker_killed_at": lost_at,
        "driver_killed_at": resumed["resumed"],
        "rest_seconds": resumed["seconds"],
        "lost": 0,
        "doubled": 0,
        "bit_identical": True,
    }


def write_manifest(
    folder: Path, rows: int, broken: Collection[int], source: str = SOURCE, target: str = TARGET
) -> Path:
    """edits.csv and its pictures, those of the rows in `broken` cut short."""
    rng = np.random.default_rng(0)
    with (folder / "edits.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "picture", "source", "target"])
        for i in range(rows):
            small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            small.resize((SIDE, SIDE)).save(folder / f"{i}.png")
            if i in broken:
                (folder / f"{i}.png").write_bytes((folder / f"{i}.png").read_bytes()[:60])
            writer.writerow([f"row{i}", f"{i}.png", source, target])
    return folder / "edits.csv"


def start(manifest: Path, out: Path, **options: Any) -> psutil.Popen:
    """`icd batch` in a group of processes of its own, so that nothing of a killed run is left to a
    later one."""
    arguments = ["batch", str(manifest), "--out", str(out), "--quiet", *program.flags(options)]
    return program.start(*arguments, start_new_session=True)


def finish(process: psutil.Popen) -> None:
    """Raises Refused where the run does not end well."""
    if process.wait() != 0:
        raise Refused(f"icd batch ended with {process.returncode}")


def disturb(manifest: Path, out: Path, rows: int, **options: Any) -> int:
    """Begins a run, kills its worker, lets another take over, and kills the driver.

    The rows done at the first loss.
    """
    process = start(manifest, out, **options)
    wait_for(lambda: done(out) >= LOST_SHARE * rows)
    lost_at = done(out)
    for worker in editors(process):
        worker.kill()
    wait_for(lambda: done(out) >= max(ENDED_SHARE * rows, lost_at + 1))
    kill(process)
    if done(out) >= rows:
        raise Refused("the run was over before it could be killed")
    return lost_at


def kill(process: psutil.Popen) -> None:
    """SIGKILL to the driver, and to Ray's processes that it started: it cannot stop them any
    more."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def editors(process: psutil.Popen) -> list[psutil.Process]:
    """The actors that edit, of this run alone."""
    below = process.children(recursive=True)
    return [
        one
        for one in below
        if any(name in " ".join(one.cmdline()) for name in ("Editor", "MapWorker"))
    ]


def wait_for(condition: Callable[[], bool]) -> None:
    """Raises Refused after PATIENCE."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise Refused("the run does not get on")
        time.sleep(0.05)


def done(out: Path) -> int:
    """Rows in the log, while a run is writing it."""
    path = out / "results.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def lines(out: Path) -> list[dict[str, Any]]:
    """The log in the manifest's order."""
    read = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return sorted(read, key=lambda line: line["row"])


def check_same(whole: Path, other: Path, rows: int, broken: int) -> None:
    """Raises Refused unless both folders have every row once, and the same bytes."""
    one = lines(whole)
    two = lines(other)
    names = sorted(path.name for path in whole.glob("*.png"))
    faults = {
        "rows were lost or doubled": [line["row"] for line in one] != list(range(rows)),
        "the logs differ": one != two,
        "pictures are missing": len(names) != rows - broken
        or len(names) != sum("picture" in line for line in one),
        "the runs have other pictures": names != sorted(path.name for path in other.glob("*.png")),
        "pictures differ": any(
            (whole / name).read_bytes() != (other / name).read_bytes() for name in names
        ),
    }
    for text, found in faults.items():
        if found:
            raise Refused(f"{text} between an undisturbed and a disturbed batch")
