"""A graph becomes an ONNX file: traced by torch, ports and axes named, weights in one file for a
whole folder."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from export.graphs import GraphSpec
from export.ports import Port
from export.translations import TRANSLATIONS
from icd_engine.errors import SettingsError

OPSETS = {20: "the widest support", 23: "with Attention and GroupNormalization as single nodes"}
INLINE_BELOW = 1024  # bytes; smaller constants stay in the graph
ALIGNMENT = 4096  # of large tensors in the weights file, so that they can be mapped into memory


class WeightsFile:
    """The weights of all graphs of one folder: what several of them hold is written once."""

    def __init__(self, path: Path):
        self.path = path
        self._written: dict[bytes, tuple[int, int]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def place(self, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
        """The tensor as a reference into the file."""
        data = tensor.tobytes()
        key = hashlib.sha256(data).digest()
        if key not in self._written:
            with self.path.open("ab") as file:
                file.write(bytes(-file.tell() % ALIGNMENT))
                self._written[key] = file.tell(), len(data)
                file.write(data)
        offset, length = self._written[key]
        return ir.ExternalTensor(
            self.path.name,
            offset,
            length,
            tensor.dtype,
            shape=tensor.shape,  # pyright: ignore[reportArgumentType]
            name=tensor.name or "",
            base_dir=self.path.parent,
        )


def to_onnx(graph: GraphSpec, opset: int) -> ir.Model:
    """The graph as an ONNX model in memory, without traces of where it was made.

    SettingsError for another opset.
    """
    if opset not in OPSETS:
        raise SettingsError(f"opset must be one of {', '.join(map(str, OPSETS))}, not {opset}")
    example = graph.example(graph.sizes[0])
    axes = {name: _dynamic(port) for name, port in graph.inputs.items()}
    with torch.no_grad(), _quiet():
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
            value.const_value = weights.place(tensor)
    path.parent.mkdir(parents=True, exist_ok=True)
    ir.save(model, path)


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


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters report on libraries that are not installed and constants they do not fold."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
