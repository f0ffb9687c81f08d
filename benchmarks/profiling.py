"""Where the time of one edit goes: a table by kernel name, and a trace that browsers show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.record import note, slug
from benchmarks.subject import Subject, open_subject
from benchmarks.timing import default_warmup, timed
from benchmarks.workload import make_cases

LARGEST_TRACE = 16 * 2**20  # bytes: what does not travel is of no use
SHOWN = 40  # kernels, of the table that is printed; the record has as many


def measure_profile(
    *,
    folder: Path | None = None,
    model: str = "tiny",
    architecture: str | None = None,
    size: int | None = None,
    runner: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    compile: str = "cheap",
    warmup: int | None = None,
) -> dict[str, Any]:
    """One first edit under torch's profiler: milliseconds by kernel (on the CPU: by operation).

    folder: takes the whole table, profile-<model>.txt, and the trace, profile-<model>.json.gz.
    busy_ms: all kernels together. span_ms: from the first one's start to the last one's end, so
    that the rest of it is time in which the device waited. wall_ms: the same edit without the
    profiler. IcdError for what cannot be loaded.
    """
    subject = open_subject(
        model, architecture, size, device=device, dtype=dtype, runner=runner, compile=compile
    )
    warmup = default_warmup(subject.device) if warmup is None else warmup
    cases = make_cases(warmup + 3, subject.size)
    for case in cases[:-2]:
        subject.edit(case)
    wall_ms, _ = timed(lambda: subject.edit(cases[-2]), subject.device)
    activities = [ProfilerActivity.CPU]
    if subject.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as taken:
        timed(lambda: subject.edit(cases[-1]), subject.device)
    kernels = by_kernel(taken, subject.device)
    table = _table(kernels)
    note("\n".join(table[: SHOWN + 1]))
    if folder is not None:
        _write(folder, subject, taken, table)
    return {
        **subject.as_dict(),
        "threads": torch.get_num_threads(),
        "wall_ms": round(wall_ms, 4),
        "busy_ms": round(sum(kernel["ms"] for kernel in kernels), 4),
        "span_ms": _span_ms(taken, subject.device),
        "launches": sum(kernel["count"] for kernel in kernels),
        "kernels": kernels[:SHOWN],
    }


def by_kernel(taken: profile, device: torch.device) -> list[dict[str, Any]]:
    """[{"name", "count", "ms"}, ...], the longest first; on the CPU an operation's own time."""
    on_gpu = device.type == "cuda"
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    found = []
    for row in taken.key_averages():
        own_us = row.self_device_time_total if on_gpu else row.self_cpu_time_total
        if row.device_type == kind and own_us > 0:
            found.append({"name": row.key, "count": row.count, "ms": round(own_us / 1000, 4)})
    return sorted(found, key=lambda kernel: -kernel["ms"])


def _table(kernels: list[dict[str, Any]]) -> list[str]:
    whole = sum(kernel["ms"] for kernel in kernels) or 1.0
    lines = [f"{'ms':>10} {'share':>6} {'calls':>6}  kernel"]
    for kernel in kernels:
        share = 100 * kernel["ms"] / whole
        name = kernel["name"][:120]
        lines.append(f"{kernel['ms']:10.3f} {share:5.1f}% {kernel['count']:6d}  {name}")
    return lines


def _span_ms(taken: profile, device: torch.device) -> float | None:
    kind = DeviceType.CUDA if device.type == "cuda" else DeviceType.CPU
    ranges = [event.time_range for event in taken.events() or () if event.device_type == kind]
    if not ranges:
        return None
    first = min(time.start for time in ranges)
    return round((max(time.end for time in ranges) - first) / 1000, 4)


def _write(folder: Path, subject: Subject, taken: profile, table: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"profile-{slug(subject.name)}"
    (folder / f"{name}.txt").write_text("\n".join(table) + "\n", encoding="utf-8")
    trace = folder / f"{name}.json.gz"
    taken.export_chrome_trace(str(trace))
    length = trace.stat().st_size
    if length > LARGEST_TRACE:
        trace.unlink()
        note(f"the trace had {length / 2**20:.0f} MiB and is left out")
