"""Timing: warmed up, in turn, no number twice; quantiles of what was measured."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.timing import Times, interleave, measure, peak_memory_mib, quantile, timed

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
PEAK = "import torch; from benchmarks import timing; print(timing.peak_memory_mib(torch.device('cpu')))"


def test_subjects_take_turns_and_never_see_a_number_twice():
    seen: list[tuple[str, int]] = []
    subjects = {name: (lambda i, name=name: seen.append((name, i))) for name in ("a", "b")}
    times = interleave(subjects, CPU, repeats=3, warmup=2)
    assert seen == [(name, i) for i in range(5) for name in ("a", "b")]
    assert all(len(times[name].wall) == 3 and not times[name].device for name in subjects)


def test_the_first_calls_are_not_measured():
    slow = lambda i: time.sleep(0.05 if i < 2 else 0)  # noqa: E731
    assert max(measure(slow, CPU, repeats=5).wall) < 40


def test_wall_time_is_in_milliseconds():
    wall, on_device = timed(lambda: time.sleep(0.02), CPU)
    assert wall >= 20 and on_device is None


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2.0), (0.99, 9.0), (0.0, 1.0)])
def test_quantiles_are_measured_values(share, expected):
    assert quantile([9.0, 1.0, 2.0], share) == expected


def test_names_of_the_numbers():
    times = Times([3.0, 1.0, 2.0], [0.5, 0.7, 0.6]).as_dict("ours")
    assert times == {"ours_ms": 2.0, "ours_p99_ms": 3.0, "ours_min_ms": 1.0, "ours_device_ms": 0.6}


def test_peak_memory_holds_this_process():
    assert peak_memory_mib(CPU) > 50


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_process_has_its_own_peak():
    """Not that of the process that started it."""
    before = torch.ones(200_000_000)  # 763 MiB
    own = peak_memory_mib(CPU)
    del before
    run = subprocess.run(
        [sys.executable, "-c", PEAK],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert own > 763 and float(run.stdout) < own - 200
