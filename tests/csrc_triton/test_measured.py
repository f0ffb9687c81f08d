"""The table of what was measured: read by device, operation and shape, and a constant to the
compiler."""

import json

import pytest
import torch
from torch import Tensor

from csrc_triton import measured
from csrc_triton.measured import measured_tiling, shape_key, tiling_in

KEPT = {"NVIDIA H200": {"conv3x3": {"bfloat16 2 16 3 4 32": [64, 64, 64, 4, 8, 4]}}}


class H200:
    name = "NVIDIA H200"


def test_a_shape_is_found_under_its_device_and_operation():
    key = shape_key(torch.bfloat16, 2, 16, 3, 4, 32)
    assert tiling_in(KEPT, "NVIDIA H200", "conv3x3", key) == (64, 64, 64, 4, 8, 4)
    assert tiling_in(KEPT, "NVIDIA A100", "conv3x3", key) is None
    assert tiling_in(KEPT, "NVIDIA H200", "self_attention", key) is None
    other = shape_key(torch.float16, 2, 16, 3, 4, 32)
    assert tiling_in(KEPT, "NVIDIA H200", "conv3x3", other) is None


def test_the_table_of_the_package_has_tilings_that_were_measured():
    from csrc_triton.conv3x3 import TILINGS as CONVOLUTIONS
    from csrc_triton.self_attention import TILINGS as ATTENTIONS

    known = {"conv3x3": CONVOLUTIONS, "self_attention": ATTENTIONS}
    for operations in json.loads(measured.PATH.read_text(encoding="utf-8")).values():
        for op, shapes in operations.items():
            assert all(tuple(tiling) in known[op] for tiling in shapes.values())


@pytest.fixture
def on_an_h200(monkeypatch):
    monkeypatch.setattr(measured, "TABLE", KEPT)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: H200)


def test_the_device_is_asked_for_its_name(on_an_h200):
    assert measured_tiling("conv3x3", 0, "bfloat16 2 16 3 4 32") == (64, 64, 64, 4, 8, 4)
    assert measured_tiling("conv3x3", 0, "bfloat16 1 16 3 4 32") is None


def test_without_entries_no_device_is_asked(monkeypatch):
    monkeypatch.setattr(measured, "TABLE", {})
    assert measured_tiling("conv3x3", 0, "bfloat16 2 16 3 4 32") is None


def test_the_choice_is_a_constant_of_compiled_code(on_an_h200):
    def chosen(x: Tensor) -> Tensor:
        tiling = measured_tiling("conv3x3", 0, shape_key(x.dtype, *x.shape, 32))
        return x if tiling is None else x * tiling[3]

    compiled = torch.compile(chosen, fullgraph=True, dynamic=False, backend="aot_eager")
    for rows, factor in ((2, 4), (1, 1)):
        x = torch.ones(rows, 16, 3, 4, dtype=torch.bfloat16)
        assert torch.equal(compiled(x), x * factor)
