"""Sessions of onnxruntime: an ONNX graph on a device, its inputs by name, and errors in one line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np

from icd_engine.bundles.exported import ExportedGraph
from icd_engine.errors import BundleError, RunnerError
from icd_engine.runners.onnx_options import make_session, session_options

ARRAYS = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
CUDA = "CUDAExecutionProvider"
# Outputs of decode_hop and inputs of further_hop: what source rows contribute to target rows
KEPT = "kept_"


class OnnxDevice(NamedTuple):
    """A device as onnxruntime names it, and the execution providers for it."""

    kind: str  # "cpu" or "cuda"
    index: int
    providers: list[Any]

    @property
    def name(self) -> str:
        """As placements have it."""
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"

    def with_cuda_graphs(self) -> OnnxDevice:
        """The same device, with CUDA graphs where it has them."""
        if self.kind != "cuda":
            return self
        graphs = (CUDA, {"device_id": self.index, "enable_cuda_graph": "1"})
        return self._replace(providers=[graphs, *self.providers[1:]])


class GraphSession:
    """One ONNX graph; may be called from several threads.

    axes: sizes that it is fixed to. BundleError where onnxruntime cannot load it.
    """

    def __init__(self, path: Path, device: OnnxDevice, axes: Mapping[str, int] | None = None):
        options = session_options()
        for name, size in (axes or {}).items():
            options.add_free_dimension_override_by_name(name, size)
        try:
            self._session = make_session(str(path), options, device.providers)
        except Exception as error:  # onnxruntime raises a dozen classes of its own
            raise BundleError(
                f"{path} cannot be loaded by onnxruntime: {_one_line(error)}"
            ) from None
        if device.kind == "cuda" and CUDA not in self._session.get_providers():
            raise RunnerError(
                f"{CUDA} was asked for and did not load: onnxruntime fell back to the CPU"
            )
        self._path = path
        self._device = device
        self._types = {port.name: ARRAYS[port.type] for port in self._session.get_inputs()}
        self.kept = [
            port.name for port in self._session.get_outputs() if port.name.startswith(KEPT)
        ]

    def __call__(self, inputs: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        """Arrays in and out; `kept_*` go in and come out as values that stay on the device."""
        binding = self._session.io_binding()
        for name, kind in self._types.items():
            if name.startswith(KEPT):
                binding.bind_ortvalue_input(name, inputs[name])
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(inputs[name], dtype=kind))
        for name in outputs:
            if name.startswith(KEPT):
                binding.bind_output(name, self._device.kind, self._device.index)
            else:
                binding.bind_output(name, "cpu", 0)
        self._compute(binding)
        return [
            value if name.startswith(KEPT) else value.numpy()
            for name, value in zip(outputs, binding.get_outputs(), strict=True)
        ]

    def _compute(self, binding: Any) -> None:
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise RunnerError(
                f"onnxruntime failed in {self._path.name}: {_one_line(error)}"
            ) from None


class FixedSession(GraphSession):
    """A graph for inputs of fixed sizes, which with its outputs stay in the same buffers from call
    to call.

    That is what onnxruntime's CUDA graphs ask for. One call at a time; results are copies.
    """

    def __init__(
        self, path: Path, device: OnnxDevice, axes: Mapping[str, int], outputs: Sequence[str]
    ):
        super().__init__(path, device, axes)
        self._outputs = list(outputs)
        self._running = Lock()
        self._buffers: dict[str, Any] = {}
        self._binding = self._session.io_binding()

    def __call__(self, inputs: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        with self._running:
            for name, kind in self._types.items():
                self._write(name, np.ascontiguousarray(inputs[name], dtype=kind))
            self._bind_outputs()
            self._compute(self._binding)
            return [self._buffers[name].numpy().copy() for name in outputs]

    def _write(self, name: str, array: np.ndarray) -> None:
        import onnxruntime

        if name in self._buffers:
            self._buffers[name].update_inplace(array)
            return
        buffer = onnxruntime.OrtValue.ortvalue_from_numpy(
            array.copy(), self._device.kind, self._device.index
        )
        self._buffers[name] = buffer
        self._binding.bind_ortvalue_input(name, buffer)

    def _bind_outputs(self) -> None:
        import onnxruntime

        for port in self._session.get_outputs():
            if port.name in self._outputs and port.name not in self._buffers:
                buffer = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                    port.shape, ARRAYS[port.type], self._device.kind, self._device.index
                )
                self._buffers[port.name] = buffer
                self._binding.bind_ortvalue_output(port.name, buffer)


class Session(Protocol):
    """One graph, ready to run. kept: its outputs that further hops take."""

    kept: list[str]

    def __call__(self, inputs: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        """Those outputs of these inputs, by name."""
        ...


MakeSession = Callable[[Path, Path | None], Session]  # of a graph's file and that of its weights


class Sessions:
    """The sessions of an exported folder's graphs, by name; each is made of its file when first asked
    for. Thread-safe."""

    def __init__(self, folder: Path, graphs: Mapping[str, ExportedGraph], make: MakeSession):
        self.paths = {name: folder / graph.file for name, graph in graphs.items()}
        self._data = {
            name: None if graph.data is None else folder / graph.data
            for name, graph in graphs.items()
        }
        self._make = make
        self._made: dict[str, Session] = {}
        self._lock = Lock()

    def __getitem__(self, name: str) -> Session:
        with self._lock:
            if name not in self._made:
                self._made[name] = self._make(self.paths[name], self._data[name])
            return self._made[name]


def choose_onnx_device(device: str) -> OnnxDevice:
    """CUDA if onnxruntime has it, else the CPU, for "auto".

    RunnerError for what is unknown or not there.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise RunnerError(
            f"exported folders need onnxruntime (or onnxruntime-gpu): {_one_line(error)}"
        ) from None
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (
        number and not (kind == "cuda" and number.isdecimal())
    ):
        raise RunnerError(f"unknown device {device!r}: use auto, cpu, cuda or cuda:N")
    available = onnxruntime.get_available_providers()
    if kind == "cuda" and CUDA not in available:
        raise RunnerError(
            f"device {device!r} was asked for, but this onnxruntime has only {', '.join(available)}"
        )
    if kind == "cuda" or (kind == "auto" and CUDA in available):
        index = int(number or 0)
        return OnnxDevice("cuda", index, [(CUDA, {"device_id": index}), "CPUExecutionProvider"])
    return OnnxDevice("cpu", 0, ["CPUExecutionProvider"])


def _one_line(error: Exception) -> str:
    """Its text in one line, without the library's own "[ONNXRuntimeError] : 1 : FAIL : " and places
    in its source."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))
    return re.sub(r"/onnxruntime_src/\S+ [^()]*\([^()]*\) ", "", text)[:300]
