"""Published-format files of a small architecture are written, converted and edited with, in every
memory mode."""

import pytest
import torch

from benchmarks import published
from benchmarks.checks import Refused


def test_every_step_is_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("ICD_BENCHMARK_CACHE", str(tmp_path))
    torch.set_num_threads(1)
    results = list(
        published.measure_published(architecture="small-xl", device="cpu", dtype="float32")
    )
    assert [result["mode"] for result in results] == ["convert", *list(published.MODES)[:3]]
    assert results[0]["family"] == "sdxl" and results[0]["disk_mib"]["bundle"] > 0
    for result in results[1:]:
        assert result["calls"] == 8 and result["size"] == [64, 64] and result["peak_memory_mib"] > 0
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_memory_mode_is_refused():
    with pytest.raises(Refused, match=r"only must be one of two networks, weights switch, .*'all'"):
        next(published.measure_published(architecture="small-xl", only="all"))
