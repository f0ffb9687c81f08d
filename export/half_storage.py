"""Weights of a graph stored in half precision where that loses nothing; arithmetic stays in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from export.onnx_files import INLINE_BELOW
from export.weights_file import WeightsFile

ALIGNMENT = 16  # bytes; nobody maps these files into memory


class WeightParts(WeightsFile):
    """The weights of one graph, in files of at most `most` bytes each: path, path_1, path_2, ...

    Browsers hold a file in one piece while they load it.
    """

    def __init__(self, path: Path, most: int):
        super().__init__(path)
        self.paths = [path]
        self._first = path
        self._most = most

    def place(self, data: bytes | memoryview) -> tuple[int, int]:
        """Where a tensor's bytes are in the last of the files, which is `path` then."""
        size = self.path.stat().st_size
        if size and size + ALIGNMENT + len(data) > self._most:
            self.path = self._first.with_name(f"{self._first.name}_{len(self.paths)}")
            self.paths.append(self.path)
        with self.path.open("ab") as file:
            file.write(bytes(-file.tell() % ALIGNMENT))
            offset = file.tell()
            file.write(data)
        return offset, len(data)


def store_in_half(model: ir.Model) -> tuple[int, int]:
    """Stores every large float32 weight whose values are all half-precision numbers as such, and
    casts it back where the graph begins. How many were, and how many were not."""
    graph = model.graph
    first = graph[0]
    stored = 0
    kept = 0
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.nbytes < INLINE_BELOW:
            continue
        half = exact_half(tensor.numpy())
        if half is None:
            kept += 1
            continue
        stored += 1
        own = ir.Value(
            name=f"{name}.half",
            type=ir.TensorType(ir.DataType.FLOAT16),
            shape=ir.Shape(half.shape),
            const_value=ir.tensor(half, name=f"{name}.half"),
        )
        del graph.initializers[name]
        value.const_value = None
        cast = ir.Node("", "Cast", [own], [ir.AttrInt64("to", ir.DataType.FLOAT)], outputs=[value])
        graph.register_initializer(own)
        graph.insert_before(first, cast)
    return stored, kept


def exact_half(values: np.ndarray) -> np.ndarray | None:
    """The same numbers as float16; None where one of them is none, or would overflow."""
    if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        return None
    half = values.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), values) else None
