"""A graph becomes an OpenVINO model: traced by torch, converted by OpenVINO, weights in one file for
a whole folder. That takes seconds where ONNX takes minutes."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import numpy as np
import openvino
import torch
from openvino import opset13
from torch import Tensor, nn

from export.check import check_openvino
from export.graphs import GraphSpec
from export.quiet import quiet
from export.weights_file import WeightsFile

STORED_AS_THEY_ARE = 1024  # bytes; smaller constants are no weights
STEPS = 127  # of 8 bits to either side of zero
WHOLE = ("vae_encoder", "vae_decoder")  # every picture passes through them: never in 8 bits


def write_openvino(
    graph: GraphSpec, path: Path, weights: WeightsFile, *, precision: str, verify: bool
) -> float | None:
    """Writes a graph; its distance from torch where that is to be verified. BundleError."""
    save(to_openvino(graph, precision), path, weights)
    return check_openvino(graph, path, weights.path, precision) if verify else None


def to_openvino(graph: GraphSpec, precision: str) -> Any:
    """The graph as an openvino.Model in memory, that computes in single precision unless it is told
    otherwise.

    precision: of stored weights. "fp32": in half precision where that holds them exactly. "fp16":
    rounded to it. "int8": those of UNets and text encoders in 8 bits with a scale for each row. "bf16":
    as the graph's networks have them, which compute in bfloat16 then; ports are float32.
    """
    example = tuple(graph.example(graph.sizes[0]).values())
    with torch.no_grad(), quiet():
        traced = torch.jit.trace(ByPorts(graph).eval(), example, check_trace=False)
        model = openvino.convert_model(traced, example_input=example)
    for values, ports in ((model.inputs, graph.inputs), (model.outputs, graph.outputs)):
        for value, name in zip(values, ports, strict=True):
            value.set_names({name})
    # By place: inputs that the tracer has seen no use of would be lost by their names
    model.reshape(
        {
            i: openvino.PartialShape([axis if isinstance(axis, int) else -1 for axis in port.axes])
            for i, port in enumerate(graph.inputs.values())
        }
    )
    model.set_friendly_name(graph.name)
    for constant in [node for node in model.get_ops() if node.get_type_name() == "Constant"]:
        values = constant.data
        if constant.get_element_type().to_string() != "f32" or values.nbytes < STORED_AS_THEY_ARE:
            continue
        if precision == "int8" and values.ndim > 1 and graph.name not in WHOLE:
            wide = _in_bytes(values)
        else:
            wide = _in_half(values, rounded=precision == "fp16")
        for use in constant.output(0).get_target_inputs() if wide else ():
            use.replace_source_output(wide.output(0))
    return model


class ByPorts(nn.Module):
    """A graph's module that takes its ports one by one, as tracers want them."""

    def __init__(self, graph: GraphSpec):
        super().__init__()
        self.module = graph.module
        self._graph = graph

    def forward(self, *values: Tensor) -> Any:
        by_port = dict(zip(self._graph.inputs, values, strict=True))
        out = self.module(**self._graph.arguments(by_port))
        if isinstance(out, Tensor):
            return _single(out)
        return tuple(map(_single, out))


def _single(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def _in_half(values: np.ndarray, rounded: bool) -> Any:
    """Values that are stored in half precision; None where that holds them not at all, or not exactly
    and they are not to be rounded."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all() or not (
        rounded or np.array_equal(half.astype(np.float32), values)
    ):
        return None
    return opset13.convert(opset13.constant(half), "f32")


def _in_bytes(values: np.ndarray) -> Any:
    """Values that are stored in 8 bits, each row (an output channel, a word) on a grid of its own."""
    inner = tuple(range(1, values.ndim))
    step = np.abs(values).max(inner, keepdims=True) / np.float32(STEPS)
    places = np.rint(values / np.where(step > 0, step, 1)).astype(np.int8)
    wide = opset13.convert(opset13.constant(places), "f32")
    return opset13.multiply(wide, opset13.constant(step))


def save(model: Any, path: Path, weights: WeightsFile) -> None:
    """Writes the model, whose constants go into the weights file."""
    with TemporaryDirectory(prefix=f".{path.name}.", dir=weights.path.parent) as scratch:
        whole = Path(scratch) / "model.xml"
        openvino.serialize(model, whole)
        tree = ElementTree.parse(whole)
        data = np.memmap(whole.with_suffix(".bin"), dtype=np.uint8, mode="r")
        for constant in tree.iterfind(".//layer[@type='Const']/data"):
            start = int(constant.attrib["offset"])
            own = data[start : start + int(constant.attrib["size"])]
            constant.set("offset", str(weights.place(own.data)[0]))
        del data
    for about in tree.iterfind("rt_info"):
        tree.getroot().remove(about)  # how it was converted, by which versions
    path.parent.mkdir(parents=True, exist_ok=True)
    tree.write(path)
