"""config.pbtxt: how NVIDIA Triton Inference Server loads a graph and batches its requests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from export.graphs import GraphSpec
from export.ports import Port

TYPES = {
    torch.float32: "TYPE_FP32",
    torch.float16: "TYPE_FP16",
    torch.int64: "TYPE_INT64",
    torch.bool: "TYPE_BOOL",
}
MOST_IN_BATCH = 16
QUEUE_DELAY_US = 2_000  # how long a request waits for others to share its batch
MOST_QUEUED = 64  # beyond these, requests are rejected at once
BATCHING = f"""dynamic_batching {{
  max_queue_delay_microseconds: {QUEUE_DELAY_US}
  default_queue_policy {{
    timeout_action: REJECT
    max_queue_size: {MOST_QUEUED}
  }}
}}
"""


def write_config(graph: GraphSpec, path: Path) -> None:
    """Writes models/NAME/config.pbtxt for the graph at models/NAME/1/model.onnx."""
    (path.parents[1] / "config.pbtxt").write_text(config(graph), encoding="utf-8")


def config(graph: GraphSpec) -> str:
    """Requests of graphs whose every port begins with the same varying axis are batched along
    it."""
    first = {port.axes[0] for port in (*graph.inputs.values(), *graph.outputs.values())}
    batched = len(first) == 1 and isinstance(next(iter(first)), str)
    lines = [
        f'name: "{graph.name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {MOST_IN_BATCH if batched else 0}",
    ]
    lines += _ports("input", graph.inputs.items(), batched) + _ports(
        "output", graph.outputs.items(), batched
    )
    return "\n".join(lines) + "\n" + (BATCHING if batched else "")


def _ports(kind: str, ports: Iterable[tuple[str, Port]], batched: bool) -> list[str]:
    return [f"{kind} {{ {_port(name, port, batched)} }}" for name, port in ports]


def _port(name: str, port: Port, batched: bool) -> str:
    axes = port.axes[1:] if batched else port.axes
    dims = ", ".join("-1" if isinstance(axis, str) else str(axis) for axis in axes)
    # A port needs at least one dimension: one number a row is a row of one, reshaped.
    shape = f"dims: [ {dims} ]" if axes else "dims: [ 1 ] reshape: { shape: [ ] }"
    return f'name: "{name}" data_type: {TYPES[port.dtype]} {shape}'
