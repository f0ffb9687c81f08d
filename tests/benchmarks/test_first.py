"""The first edit of a process is measured from the process's start, in a home of its own."""

import tempfile

import pytest

from benchmarks import first, program
from benchmarks.checks import Refused


def test_processes_are_measured_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = first.measure_first(model="tiny", runner="eager", device="cpu", repeats=2)
    assert 0 < result["first_s"] <= result["first_longest_s"]
    assert result["once_s"] > 0 and result["peak_memory_mib"] > result["own_memory_mib"] > 100
    assert result["size"] == [128, 128] and result["repeats"] == 2
    assert list(tmp_path.iterdir()) == []


def test_an_edit_that_fails_is_refused(tmp_path):
    with pytest.raises(Refused, match="icd edit ended with 1"):
        first._run(
            ["edit", str(tmp_path / "none.png"), *program.flags({"source": "a", "target": "b"})],
            tmp_path,
        )
