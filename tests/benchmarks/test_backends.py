"""Tables of what libraries give: every way computes the same, and what cannot run is left open."""

import pytest
import torch

from benchmarks import backends
from benchmarks.checks import Refused
from benchmarks.op_cases import Shapes

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


def test_a_way_that_differs_is_refused():
    ways = {
        "first": (torch.square, [torch.ones(3)]),
        "other": (lambda x: 1.1 * x.square(), [torch.ones(3)]),
    }
    work = backends.conv(1, 1, 1, 1, 1)
    with pytest.raises(Refused, match=r"^three ones by other is off by 1\.0e-01 relative"):
        backends._row("three ones", ways, work, QUICK, 1)


def test_searching_ends_with_the_call():
    x = torch.ones(1, 2, 4, 4)
    assert not torch.backends.cudnn.benchmark
    backends._searched(x, torch.ones(2, 2, 3, 3))
    assert not torch.backends.cudnn.benchmark


def test_an_unknown_table_is_named():
    with pytest.raises(Refused, match=r"no table 'convolutions' \(known: node, convolution"):
        list(backends.measure_backends(only="convolutions", device="cpu"))
