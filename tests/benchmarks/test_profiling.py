"""The profile of an edit: the longest first, all of it, in files that travel."""

import gzip
import json

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import profiling

OPTIONS = {"model": "tiny", "runner": "eager", "device": "cpu", "warmup": 0}


def test_an_edit_is_taken_apart(tmp_path):
    result = profiling.measure_profile(folder=tmp_path, **OPTIONS)
    times = [kernel["ms"] for kernel in result["kernels"]]
    assert times == sorted(times, reverse=True) and len(times) <= profiling.SHOWN
    assert sum(times) <= result["busy_ms"] + 1e-3
    assert any("conv" in kernel["name"] for kernel in result["kernels"])
    assert result["wall_ms"] > 0 and 0 < result["busy_ms"] <= result["span_ms"] * 1.01
    table = (tmp_path / "profile-tiny.txt").read_text().splitlines()
    assert len(table) > len(times) and table[1].endswith(result["kernels"][0]["name"])
    with gzip.open(tmp_path / "profile-tiny.json.gz", "rt") as trace:
        assert len(json.load(trace)["traceEvents"]) > result["launches"]


def test_a_trace_that_is_too_large_is_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(profiling, "LARGEST_TRACE", 100)
    profiling.measure_profile(folder=tmp_path, **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["profile-tiny.txt"]
    assert "is left out" in capsys.readouterr().err


def test_calls_of_one_kernel_are_added_up():
    with profile(activities=[ProfilerActivity.CPU]) as taken:
        for _ in range(3):
            torch.ones(4, 4).cos_()
    (found,) = [
        kernel
        for kernel in profiling.by_kernel(taken, torch.device("cpu"))
        if kernel["name"] == "aten::cos_"
    ]
    assert found["count"] == 3
