"""The first edit of a process, from the process's start: `icd edit` as one types it."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import psutil
import torch

from benchmarks import program
from benchmarks.checks import Refused
from benchmarks.record import note
from benchmarks.subject import measured_bundle
from benchmarks.timing import quantile
from benchmarks.workload import make_cases
from icd_engine.loading import choose_device

BETWEEN = 0.02  # seconds from one look at the memory to the next


def measure_first(
    *,
    model: str = "tiny",
    architecture: str | None = None,
    size: int | None = None,
    runner: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    repeats: int = 3,
) -> dict[str, Any]:
    """Seconds from the start of `icd edit` to its end, the picture written, and the most memory that
    it held.

    The very first of these processes begins with an empty home folder: what it converts is in
    `once_s`. The others, which are `first_s`, find what it kept and files in the page cache. Refused
    where an edit fails, IcdError for a model that cannot be loaded.
    """
    bundle, name = measured_bundle(model, architecture, size)
    side = (size, size) if size else bundle.size
    options = {"model": bundle.path, "runner": runner, "device": device, "dtype": dtype}
    with TemporaryDirectory(prefix="icd-first-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        command = _command(home, side, options)
        once_s = _run(command, home).s
        note(f"the first process took {once_s:.1f} s")
        runs = [_run(command, home) for _ in range(repeats)]
    seconds = [run.s for run in runs]
    return {
        "model": name,
        "size": list(side),
        "runner": runner,
        "device_type": choose_device(device).type,
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "once_s": round(once_s, 2),
        "first_s": round(quantile(seconds, 0.5), 2),
        "first_longest_s": round(max(seconds), 2),
        "peak_memory_mib": max(run.peak_mib for run in runs),
        "own_memory_mib": max(run.own_mib for run in runs),
        "repeats": repeats,
    }


def _command(folder: Path, size: tuple[int, int], options: dict[str, Any]) -> list[str]:
    """Of `icd`: an edit of a picture of this size in the folder."""
    case = make_cases(1, size)[0]
    case.picture.save(folder / "picture.png")
    told = {"source": case.source, "target": case.target, "size": "x".join(map(str, size))}
    out = {"out": folder / "edited.png"}
    return ["edit", str(folder / "picture.png"), *program.flags(told | options | out)]


class _Run(NamedTuple):
    """A process's seconds, its most resident memory, and its most without the files that it has mapped,
    which the system takes back as it likes, in MiB."""

    s: float
    peak_mib: float
    own_mib: float


def _run(command: list[str], home: Path) -> _Run:
    started = time.perf_counter()
    process = program.start(*command, env={"ICD_HOME": str(home)})
    whole = own = 0
    while process.poll() is None:
        with suppress(psutil.Error):  # it may end between the two
            used = process.memory_info()
            whole, own = max(whole, used.rss), max(own, used.rss - getattr(used, "shared", 0))
        time.sleep(BETWEEN)
    taken = time.perf_counter() - started
    if process.returncode:
        raise Refused(f"icd edit ended with {process.returncode}")
    return _Run(taken, round(whole / 2**20, 1), round(own / 2**20, 1))
