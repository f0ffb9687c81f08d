"""Records: one valid JSON line each, appended, with all that a number needs to be believed."""

import json
import re

import pytest
import torch

from benchmarks import record

CPU = torch.device("cpu")


def test_lines_are_appended_and_read_back(tmp_path):
    where = record.environment(CPU)
    for value in (1.5, 2.5):
        path = record.append(tmp_path / "results", "edit", {"ours_ms": value}, where)
    lines = path.read_text().splitlines()
    assert path.name == f"{record.slug(where['device'])}.jsonl"
    assert [json.loads(line)["result"]["ours_ms"] for line in lines] == [1.5, 2.5]
    assert record.read(path.parent) == [json.loads(line) for line in lines]


def test_a_record_says_where_it_was_measured():
    where = record.environment(CPU)
    assert {"commit", "date", "device", "threads", "versions", "clocks"} == set(where)
    assert {"python", "torch", "triton"} <= set(where["versions"])
    assert where["versions"]["torch"] == torch.__version__
    assert where["threads"] == torch.get_num_threads()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", where["date"])
    assert re.search(r"\d+ cores$", where["device"])
    assert where["clocks"] == {}


def test_a_number_that_is_none_is_not_recorded(tmp_path):
    with pytest.raises(ValueError):
        record.append(tmp_path, "edit", {"ours_ms": float("nan")}, record.environment(CPU))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("head", "changed", "expected"),
    [("abc123", "", "abc123"), ("abc123", " M engine.py", "abc123-dirty"), (None, None, "given")],
)
def test_commit(monkeypatch, head, changed, expected):
    monkeypatch.setattr(record, "_output", lambda command: changed if "status" in command else head)
    monkeypatch.setenv("ICD_COMMIT", "given")
    assert record.commit() == expected


def test_clocks_are_those_of_nvidia_smi(monkeypatch):
    monkeypatch.setattr(
        record, "_output", lambda command: "1980 MHz, 3201 MHz, 1980 MHz, 600 W, 40, 580.1"
    )
    assert record.clocks(torch.device("cuda", 0))["clocks.sm"] == "1980 MHz"
    monkeypatch.setattr(record, "_output", lambda command: "an error of another shape")
    assert record.clocks(torch.device("cuda", 0)) == {}


@pytest.mark.parametrize(
    ("name", "slug"), [("NVIDIA H200", "nvidia-h200"), ("AMD EPYC, 2 cores", "amd-epyc-2-cores")]
)
def test_slug(name, slug):
    assert record.slug(name) == slug
