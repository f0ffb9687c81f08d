"""A graph becomes an ONNX file: traced by torch, ports and axes named, weights in one file for a
whole folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from export.check import check_onnx
from export.graphs import GraphSpec
from export.ports import Port
from export.quiet import quiet
from export.translations import TRANSLATIONS
from export.weights_file import WeightsFile

INLINE_BELOW = 1024  # bytes; smaller constants stay in the graph


def write_onnx(
    graph: GraphSpec, path: Path, weights: WeightsFile, *, opset: int, verify: bool
) -> float | None:
    """Writes a graph; its distance from torch where that is to be verified. BundleError."""
    save(to_onnx(graph, opset), path, weights)
    return check_onnx(graph, path) if verify else None


def to_onnx(graph: GraphSpec, opset: int) -> ir.Model:
    """The graph as an ONNX model in memory, without traces of where it was made."""
    example = graph.example(graph.sizes[0])
    axes = {name: _dynamic(port) for name, port in graph.inputs.items()}
    with torch.no_grad(), quiet():
        program = torch.export.export(
            graph.module,
            (),
            graph.arguments(example),
            dynamic_shapes=graph.arguments(axes),
            strict=False,
        )
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            custom_translation_table=TRANSLATIONS[opset],
            verbose=False,
        )
    assert exported is not None
    model = exported.model
    for values, ports in ((model.graph.inputs, graph.inputs), (model.graph.outputs, graph.outputs)):
        for value, (name, port) in zip(values, ports.items(), strict=True):
            value.name = name
            value.shape = ir.Shape(port.axes)
    _strip(model)
    return model


def save(model: ir.Model, path: Path, weights: WeightsFile) -> None:
    """Writes the model beside its weights file."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes >= INLINE_BELOW:
            value.const_value = _external(tensor, weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    ir.save(model, path)


def _external(tensor: ir.TensorProtocol, weights: WeightsFile) -> ir.ExternalTensor:
    """The tensor as a reference into the weights file."""
    offset, length = weights.place(tensor.tobytes())
    return ir.ExternalTensor(
        weights.path.name,
        offset,
        length,
        tensor.dtype,
        shape=tensor.shape,  # pyright: ignore[reportArgumentType]
        name=tensor.name or "",
        base_dir=weights.path.parent,
    )


def _dynamic(port: Port) -> dict[int, Any]:
    """Axes by name may vary; how they hang together the tracer finds out."""
    return {i: torch.export.Dim.AUTO for i, axis in enumerate(port.axes) if isinstance(axis, str)}


def _strip(model: ir.Model) -> None:
    """Stack traces, module paths and file names say where a model was made, and are half of its
    size."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
