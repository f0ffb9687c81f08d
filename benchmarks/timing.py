"""Times of calls: warmed up, interleaved, wall and device, as quantiles; peak memory.

Warm-up policy: every subject is called `warmup` times unmeasured before any is measured (2 on the
CPU, 5 on CUDA), which is where compilation, graph capture and allocators' growth happen; what the
very first call took is reported apart as cold. Subjects then take turns, repeat by repeat, so that
a disturbance of the machine meets all of them.
"""

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

# Called with a running number, so that no two calls need have the same input
Subject = Callable[[int], object]


@dataclass
class Times:
    """Milliseconds of one subject's calls. device: between CUDA events around the call, empty on
    the CPU."""

    wall: list[float] = field(default_factory=list)
    device: list[float] = field(default_factory=list)

    @property
    def p50(self) -> float:
        return quantile(self.wall, 0.5)

    def as_dict(self, name: str = "") -> dict[str, float | None]:
        """{name}_ms (the median), its _p99_ms (the largest, below 100 repeats), _min_ms, and
        _device_ms (median)."""
        return {
            f"{name}_ms": round(self.p50, 4),
            f"{name}_p99_ms": round(quantile(self.wall, 0.99), 4),
            f"{name}_min_ms": round(min(self.wall), 4),
            f"{name}_device_ms": round(quantile(self.device, 0.5), 4) if self.device else None,
        }


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` of them do not exceed."""
    return float(np.quantile(values, share, method="inverted_cdf"))


def default_warmup(device: torch.device) -> int:
    return 5 if device.type == "cuda" else 2


def timed(call: Callable[[], object], device: torch.device) -> tuple[float, float | None]:
    """(wall, device) milliseconds of one call, the device idle before it and waited for after
    it."""
    if device.type != "cuda":
        started = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - started), None
    with torch.cuda.device(device):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        started = time.perf_counter()
        before.record()
        call()
        after.record()
        torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - started), before.elapsed_time(after)


def interleave(
    subjects: Mapping[str, Subject], device: torch.device, repeats: int, warmup: int | None = None
) -> dict[str, Times]:
    """Calls every subject in turn, `repeats` times after the warm-up, with numbers that never
    repeat."""
    warmup = default_warmup(device) if warmup is None else warmup
    for i in range(warmup):
        for subject in subjects.values():
            subject(i)
    times = {name: Times() for name in subjects}
    for i in range(warmup, warmup + repeats):
        for name, subject in subjects.items():
            wall, on_device = timed(lambda subject=subject, i=i: subject(i), device)
            times[name].wall.append(wall)
            if on_device is not None:
                times[name].device.append(on_device)
    return times


def measure(
    subject: Subject, device: torch.device, repeats: int, warmup: int | None = None
) -> Times:
    """`interleave` for one subject."""
    return interleave({"subject": subject}, device, repeats, warmup)["subject"]


def reset_peak_memory(device: torch.device) -> None:
    """Forgets the peak so far. The CPU's is the process's own and cannot be forgotten."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mib(device: torch.device) -> float:
    """Most memory so far: allocated on the device since `reset_peak_memory`, or resident in this
    process."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    own = re.search(r"^VmHWM:\s*(\d+) kB", _status(), re.MULTILINE)
    if own:  # Linux; ru_maxrss would keep the peak of the process that started this one
        return round(int(own[1]) / 1024, 1)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def _status() -> str:
    try:
        return Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
