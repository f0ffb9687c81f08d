"""Threads: what was told comes first, then what the process may run on, within a container's limit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from icd_engine import threads


@pytest.mark.parametrize(
    ("told", "expected"),
    [("1", 1), ("3", 3), (" 5 ", 5), ("4,2", 4), ("", 8), ("0", 8), ("many", 8), ("-1", 8)],
)
def test_what_was_told_comes_first(monkeypatch, told, expected):
    monkeypatch.setattr(threads, "usable_processors", lambda: 8)
    monkeypatch.setattr(threads, "cgroup_quota", lambda: None)
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert threads.compute_threads() == expected


@pytest.mark.parametrize(
    ("usable", "quota", "expected"), [(8, None, 8), (8, 2, 2), (2, 8, 2), (1, 1, 1), (4, 0, 1)]
)
def test_the_smaller_of_affinity_and_quota(monkeypatch, usable, quota, expected):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "usable_processors", lambda: usable)
    monkeypatch.setattr(threads, "cgroup_quota", lambda: quota)
    assert threads.compute_threads() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_affinity_is_looked_at():
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from icd_engine.threads import usable_processors; print(usable_processors())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "1"


def groups(tmp_path: Path, own: str, files: dict[str, str]) -> int | None:
    for name, text in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "own").write_text(own)
    return threads.cgroup_quota(tmp_path / "root", tmp_path / "own")


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),  # rounded up
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "garbage\n"}, None),
        ("0::/\n", {}, None),
        # A group above it allows less
        ("0::/a/b\n", {"a/cpu.max": "100000 100000", "a/b/cpu.max": "400000 100000"}, 1),
        # The host's path, which a container does not see: its own group is the root
        ("0::/docker/123\n", {"cpu.max": "300000 100000"}, 3),
        # The first version, in a folder named by one or by both controllers
        (
            "3:cpuset:/\n1:cpu:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "200000", "cpu/a/cpu.cfs_period_us": "100000"},
            2,
        ),
        (
            "4:cpu,cpuacct:/\n",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "400000",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            4,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("9:name=systemd:/\n", {"cpu.max": "100000 100000"}, None),
    ],
)
def test_the_control_groups_limit(tmp_path, own, files, expected):
    assert groups(tmp_path, own, files) == expected


def test_a_system_without_control_groups(tmp_path):
    assert threads.cgroup_quota(tmp_path, tmp_path / "none") is None
