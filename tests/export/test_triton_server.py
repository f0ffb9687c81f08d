"""config.pbtxt field by field; tests/test_runtime.py holds it to NVIDIA's own schema."""

import torch

from export.graphs import GraphSpec
from export.ports import Port
from export.triton_server import MOST_QUEUED, config

ROWS = {"latents": Port(("rows", 4, "height", "width")), "hop_a": Port(("rows",))}
EDIT = {"share_self": Port(("targets",), torch.bool), "timestep": Port(("rows",), torch.int64)}


def graph(inputs: dict, outputs: dict | None = None) -> GraphSpec:
    return GraphSpec(
        "hop",
        "models/hop/1/model.onnx",
        torch.nn.Identity(),
        inputs,
        outputs or {"x": ROWS["latents"]},
        (),
    )


def test_rows_of_several_requests_are_batched():
    text = config(graph(ROWS))
    assert "max_batch_size: 16" in text and "dynamic_batching {" in text
    assert f"timeout_action: REJECT\n    max_queue_size: {MOST_QUEUED}" in text
    assert 'input { name: "latents" data_type: TYPE_FP32 dims: [ 4, -1, -1 ] }' in text
    assert (
        'input { name: "hop_a" data_type: TYPE_FP32 dims: [ 1 ] reshape: { shape: [ ] } }' in text
    )


def test_what_has_several_kinds_of_rows_is_not_batched():
    text = config(graph(ROWS | EDIT))
    assert "max_batch_size: 0" in text and "dynamic_batching" not in text
    assert 'input { name: "latents" data_type: TYPE_FP32 dims: [ -1, 4, -1, -1 ] }' in text
    assert 'input { name: "share_self" data_type: TYPE_BOOL dims: [ -1 ] }' in text
    assert 'input { name: "timestep" data_type: TYPE_INT64 dims: [ -1 ] }' in text
