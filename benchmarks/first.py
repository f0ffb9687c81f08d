"""The first edit of a process, from the process's start: `icd edit` as one types it."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

from benchmarks import program
from benchmarks.architectures import architecture_bundle
from benchmarks.checks import Refused
from benchmarks.record import note
from benchmarks.timing import quantile
from benchmarks.workload import make_cases
from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.pull import located
from icd_engine.loading import choose_device


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
    named = architecture is None
    bundle = read_bundle(located(model)) if named else architecture_bundle(architecture, size)
    side = (size, size) if size else bundle.size
    home = Path(mkdtemp(prefix="icd-first-"))
    options = {"model": bundle.path, "runner": runner, "device": device, "dtype": dtype}
    try:
        case = make_cases(1, side)[0]
        case.picture.save(home / "picture.png")
        told = [
            "--source",
            case.source,
            "--target",
            case.target,
            "--size",
            "x".join(map(str, side)),
        ]
        command = ["edit", str(home / "picture.png"), *told, *program.flags(options)]
        command += ["--out", str(home / "edited.png")]
        once_s, _ = _run(command, home)
        note(f"the first process took {once_s:.1f} s")
        runs = [_run(command, home) for _ in range(repeats)]
    finally:
        shutil.rmtree(home, ignore_errors=True)
    seconds = [taken for taken, _ in runs]
    return {
        "model": model if named else f"{architecture} (random weights)",
        "size": list(side),
        "runner": runner,
        "device_type": choose_device(device).type,
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "once_s": round(once_s, 2),
        "first_s": round(quantile(seconds, 0.5), 2),
        "first_longest_s": round(max(seconds), 2),
        "peak_memory_mib": max(memory for _, memory in runs),
        "repeats": repeats,
    }


def _run(command: list[str], home: Path) -> tuple[float, float]:
    """(seconds, the process's most resident memory in MiB)."""
    started = time.perf_counter()
    process = program.start(*command, env={"ICD_HOME": str(home)})
    _, status, used = os.wait4(process.pid, 0)
    taken = time.perf_counter() - started
    if status:
        raise Refused(f"icd edit ended with {os.waitstatus_to_exitcode(status)}")
    return taken, round(used.ru_maxrss / 1024, 1)
