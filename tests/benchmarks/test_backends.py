"""Tables of what libraries give: every way computes the same, and what cannot run is left open."""

import json
from importlib import import_module

import pytest
import torch

import csrc_triton.conv3x3 as conv3x3
import csrc_triton.self_attention as self_attention
from benchmarks import backends
from benchmarks.checks import Refused
from benchmarks.op_cases import Shapes
from csrc_triton import measured

QUICK = Shapes(torch.device("cpu"), torch.float32, quick=True)


@pytest.mark.parametrize("name", backends.TABLES)
def test_a_table_has_a_time_by_every_way_of_this_machine(monkeypatch, name):
    monkeypatch.setattr(backends, "CONVOLUTIONS", backends.CONVOLUTIONS[:1])
    monkeypatch.setattr(backends, "ATTENTIONS", backends.ATTENTIONS[:1])
    rows = list(backends.measure_backends(only=name, device="cpu", quick=True, repeats=2))
    assert len(rows) == (1 if name == "node" else len(backends.ROWS))
    ways = {"node": ["node_us"], "attention": ["chosen_ms", "bmm_ms"]}
    for row in rows:
        assert row["table"] == name and row["dtype"] == "float32"
        for way in ways.get(name, ["cudnn_ms", "searched_ms", "im2col_ms", "product_ms"]):
            assert row[way] > 0
    if name == "attention":
        assert rows[0]["cudnn_ms"] is None  # there is no cuDNN on a CPU


def test_a_way_that_differs_is_told_and_the_others_are_timed(capsys):
    ways = {
        "first": (torch.square, [torch.ones(3)]),
        "other": (lambda x: 1.1 * x.square(), [torch.ones(3)]),
    }
    work = backends.conv(1, 1, 1, 1, 1)
    row = backends._row("three ones", ways, work, QUICK, 1)
    assert row["first_ms"] > 0 and row["other_ms"] is None and row["wrong"] == ["other"]
    assert "three ones by other is off by 1.0e-01 relative" in capsys.readouterr().err


def test_a_run_with_a_wrong_way_fails_at_its_end(monkeypatch):
    rows = [{"shape": "a", "wrong": ["other"]}, {"shape": "b"}]
    monkeypatch.setattr(backends, "TABLES", {"node": lambda shapes, repeats: iter(rows)})
    run = backends.measure_backends(device="cpu")
    assert [next(run)["shape"], next(run)["shape"]] == ["a", "b"]
    with pytest.raises(Refused, match="1 ways are wrong"):
        next(run)


def test_a_kernel_is_chosen_where_it_saves_enough():
    def chosen(theirs: float, **ours: float) -> object:
        times = {f"ours {name}_ms": ms for name, ms in ours.items()}
        row = {"cudnn_ms": theirs, "searched_ms": None, "product_ms": 0.1, **times}
        return backends._choice("conv3x3", "shape", row, ("cudnn", "searched")).get("tiling")

    assert chosen(1.0, **{"1-2": 0.96, "3-4": 0.5}) == [3, 4]
    assert chosen(1.0, **{"1-2": 0.98}) is None
    assert chosen(1.0) is None


def test_what_is_chosen_is_what_the_operation_looks_up(tmp_path, monkeypatch):
    """Under the keys that a call makes, in a file that may stand in place of the package's."""
    monkeypatch.setattr(backends, "CONVOLUTIONS", backends.CONVOLUTIONS[:1])
    monkeypatch.setattr(backends, "ATTENTIONS", backends.ATTENTIONS[:1])
    monkeypatch.setattr(backends, "GAIN", -1e9)  # whatever it takes
    list(backends.measure_backends(device="cpu", quick=True, repeats=1, folder=tmp_path))
    kept = json.loads((tmp_path / "measured.json").read_text())
    asked = []
    for module in (conv3x3, self_attention):
        monkeypatch.setattr(module, "fused", lambda x: True)
        monkeypatch.setattr(module, "measured_tiling", lambda *given: asked.append(given))
    conv3x3.conv3x3(torch.ones(2, 160, 2, 2), torch.ones(160, 160, 3, 3))
    self_attention.self_attention(*[torch.ones(1, 8, 64, 40)] * 3)
    (name,) = kept
    for op, _, key in asked:
        tiling = measured.tiling_in(kept, name, op, key)
        assert tiling == import_module(f"csrc_triton.{op}").TILINGS[0]
    assert [op for op, *_ in asked] == ["conv3x3", "self_attention"]


def test_every_way_of_a_strided_convolution_is_that_convolution(monkeypatch):
    strided = [case for case in backends.CONVOLUTIONS if case[-1] == 2]
    assert strided
    monkeypatch.setattr(backends, "CONVOLUTIONS", strided[-1:])
    for row in backends.measure_backends(only="convolution", device="cpu", quick=True, repeats=1):
        assert "wrong" not in row and row["cudnn_ms"] > 0


def test_searching_ends_with_the_call():
    x = torch.ones(1, 2, 4, 4)
    assert not torch.backends.cudnn.benchmark
    backends._searched(1, x, torch.ones(2, 2, 3, 3))
    assert not torch.backends.cudnn.benchmark


def test_an_unknown_table_is_named():
    with pytest.raises(Refused, match=r"no table 'convolutions' \(known: node, convolution"):
        list(backends.measure_backends(only="convolutions", device="cpu"))
