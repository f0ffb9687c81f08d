"""How many threads this process is to compute with: as it was told, or as many as it may run."""

from __future__ import annotations

import math
import os
from pathlib import Path

TOLD = "OMP_NUM_THREADS"  # what Ray, container images and cloud runtimes set; torch keeps to it too
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def compute_threads() -> int:
    """OMP_NUM_THREADS, or the processors that this process may run on, or fewer where its control
    group gives it less time than they have (a container's limit). At least 1."""
    # OpenMP takes a list, of which the first is for the outermost level
    told = os.environ.get(TOLD, "").partition(",")[0].strip()
    if told.isdecimal() and int(told) > 0:
        return int(told)
    quota = cgroup_quota()
    return usable_processors() if quota is None else max(1, min(usable_processors(), quota))


def usable_processors() -> int:
    """Those that the process may run on; where the system does not tell, all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_quota(root: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int | None:
    """Processors' worth of time that the control groups of this process allow, rounded up; None where
    they allow any. root: where control groups are mounted. own: the file that names the process's."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    shares = [share for line in lines for share in _shares(root, line)]
    return math.ceil(min(shares)) if shares else None


def _shares(root: Path, line: str) -> list[float]:
    """Limits of one line of /proc/self/cgroup ("0::/a/b", or "1:cpu,cpuacct:/a/b" of version 1) and of
    every group above it. Inside of a container the path may be the host's; the root is then its own."""
    _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
    if controllers and "cpu" not in controllers.split(","):
        return []
    bases = [root / controllers, root / "cpu"] if controllers else [root, root / "unified"]
    inner = Path(path.lstrip("/"))
    read = _second_version if not controllers else _first_version
    groups = [base / part for base in bases for part in (inner, *inner.parents)]
    return [share for share in map(read, dict.fromkeys(groups)) if share is not None]


def _second_version(group: Path) -> float | None:
    """cpu.max: "quota period" in microseconds, or "max period"."""
    return _share(_words(group / "cpu.max"))


def _first_version(group: Path) -> float | None:
    """The same in two files; -1 is no limit."""
    return _share(_words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us"))


def _share(words: list[str]) -> float | None:
    if len(words) != 2 or not all(word.isdecimal() for word in words) or int(words[1]) == 0:
        return None
    return int(words[0]) / int(words[1]) or None


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except OSError:
        return []
