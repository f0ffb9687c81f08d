"""config.pbtxt against NVIDIA's own schema where it is installed, and field by field everywhere."""

import importlib.util
import sys

import pytest
import torch

from export.graphs import Graph, Port
from export.triton_server import MOST_QUEUED, config

ROWS = {"latents": Port(("rows", 4, "height", "width")), "hop_a": Port(("rows",))}
EDIT = {"share_self": Port(("targets",), torch.bool), "timestep": Port(("rows",), torch.int64)}


def graph(inputs: dict, outputs: dict | None = None) -> Graph:
    return Graph("hop", "models/hop/1/model.onnx", torch.nn.Identity(), inputs, outputs or {"x": ROWS["latents"]}, ())


def test_rows_of_several_requests_are_batched():
    text = config(graph(ROWS))
    assert "max_batch_size: 16" in text and "dynamic_batching {" in text
    assert f"timeout_action: REJECT\n    max_queue_size: {MOST_QUEUED}" in text
    assert 'input { name: "latents" data_type: TYPE_FP32 dims: [ 4, -1, -1 ] }' in text
    assert 'input { name: "hop_a" data_type: TYPE_FP32 dims: [ 1 ] reshape: { shape: [ ] } }' in text


def test_what_has_several_kinds_of_rows_is_not_batched():
    text = config(graph(ROWS | EDIT))
    assert "max_batch_size: 0" in text and "dynamic_batching" not in text
    assert 'input { name: "latents" data_type: TYPE_FP32 dims: [ -1, 4, -1, -1 ] }' in text
    assert 'input { name: "share_self" data_type: TYPE_BOOL dims: [ -1 ] }' in text
    assert 'input { name: "timestep" data_type: TYPE_INT64 dims: [ -1 ] }' in text


@pytest.mark.parametrize("inputs", [ROWS, ROWS | EDIT], ids=["batched", "not batched"])
def test_the_schema_accepts_it(inputs):
    """`pip install --no-deps tritonclient` brings the schema; nothing else of it is needed."""
    package = importlib.util.find_spec("tritonclient")
    text_format = pytest.importorskip("google.protobuf.text_format")
    if package is None or not package.submodule_search_locations:
        pytest.skip("tritonclient is not installed")
    path = f"{package.submodule_search_locations[0]}/grpc/model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec and spec.loader
    schema = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(schema)
    parsed = text_format.Parse(config(graph(inputs)), schema.ModelConfig())
    assert parsed.backend == "onnxruntime"
    assert [port.name for port in parsed.input] == list(inputs)
    assert (parsed.max_batch_size > 0) == parsed.HasField("dynamic_batching")
