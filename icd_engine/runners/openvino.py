"""The OpenVINO runner: exported graphs, as fast as Intel's and AMD's processors do them, ready in a
second; without torch, without onnxruntime."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from icd_engine.bundles.bundle import Bundle
from icd_engine.bundles.exported import Exported
from icd_engine.bundles.kept_graphs import compiled_folder
from icd_engine.errors import BundleError, RunnerError
from icd_engine.runners.contract import Decoded, DecodeInputs, SourceBranch, StepCallback
from icd_engine.runners.onnx import OnnxRunner
from icd_engine.runners.onnx_session import KEPT
from icd_engine.sampling.schedule import Hop
from icd_engine.threads import compute_threads

HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
WITHOUT = "runner 'openvino' needs OpenVINO: pip install 'icd-engine[openvino]'"
KEPT_BELOW = 128 * 2**20  # bytes of weights; compiled graphs hold them, so larger ones are not kept


class OpenVinoRunner(OnnxRunner):
    """Runs an exported bundle by OpenVINO. Latents are float32 between calls, whatever the precision
    that networks compute in."""

    name = "openvino"

    def __init__(self, bundle: Bundle, exported: Exported, device: str, dtype: str):
        if not is_installed():
            raise RunnerError(WITHOUT)
        core = openvino_core()
        place = _checked_device(core, device)
        hint = _checked_precision(core, place, dtype)
        if exported.precision == "bf16" and dtype not in ("auto", "bfloat16"):
            raise RunnerError(f"this folder was exported in bfloat16 and cannot run in {dtype!r}")
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": HINTS[hint]}
        if place == "CPU":
            options["INFERENCE_NUM_THREADS"] = compute_threads()
        kept = compiled_folder(bundle, options)
        running = Lock()

        def make(path: Path, data: Path | None) -> GraphInOpenVino:
            small = data is not None and data.stat().st_size <= KEPT_BELOW
            keeping = {"CACHE_DIR": str(kept)} if kept and small else {}
            return GraphInOpenVino(path, data, core, place, options | keeping, running)

        super().__init__(bundle, exported, "cpu" if place == "CPU" else f"openvino:{place}", make)
        self.dtype = hint

    def decode(
        self, inputs: DecodeInputs, hops: Sequence[Hop], callback: StepCallback | None
    ) -> Decoded:
        # Source rows beside target rows, hop by hop, are as much work as all of them in the first
        # call, by one graph at one size instead of two at three: compiling takes longer than an edit
        if inputs.only_source or not inputs.ahead:
            return super().decode(inputs, hops, callback)
        decoded = super().decode(replace(inputs, ahead=False), hops, callback)
        branch = decoded.source and _together(decoded.source)
        return replace(decoded, latents=decoded.latents[inputs.sources :], source=branch)


class GraphInOpenVino:
    """One graph. The sizes that it is called with first have a program of their own, the fastest; all
    others share one, made when the first of them comes.

    data: the file of its weights, where the graph does not name it. options: of compiling. running:
    held for the length of a call: graphs that ran at once would each take all threads. BundleError
    where OpenVINO cannot load it.
    """

    def __init__(
        self,
        path: Path,
        data: Path | None,
        core: Any,
        device: str,
        options: Mapping[str, Any],
        running: Lock,
    ):
        self._path = path
        self._core = core
        self._device = device
        self._options = options
        self._running = running
        with _told(path):
            own = [data] if path.suffix == ".xml" else []
            self._model = core.read_model(path, *own)
        self._types = {port.any_name: port.element_type.to_dtype() for port in self._model.inputs}
        # OpenVINO holds inputs to a declared scalar: the standard UNet's time step, one for all rows
        self._scalars = [p.any_name for p in self._model.inputs if p.partial_shape.rank == 0]
        names = [port.any_name for port in self._model.outputs]
        self._place = {name: i for i, name in enumerate(names)}
        self.kept = [name for name in names if name.startswith(KEPT)]
        self._first: tuple[Any, Any] | None = None  # sizes, and what runs them
        self._others: Any = None

    def __call__(self, inputs: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        """Arrays in and out."""
        feeds = {
            name: np.ascontiguousarray(inputs[name], dtype=kind)
            for name, kind in self._types.items()
        }
        feeds |= {name: feeds[name].flat[0].reshape(()) for name in self._scalars}
        with self._running:
            request = self._request({name: array.shape for name, array in feeds.items()})
            try:
                request.infer(feeds, share_inputs=True)
            except Exception as error:
                raise RunnerError(f"OpenVINO failed in {self._path.name}: {_line(error)}") from None
            return [request.get_output_tensor(self._place[name]).data.copy() for name in outputs]

    def _request(self, sizes: Mapping[str, tuple[int, ...]]) -> Any:
        """What runs inputs of these sizes. BundleError where OpenVINO cannot compile the graph."""
        with _told(self._path):
            if self._first is None:
                model = self._model.clone()
                model.reshape(dict(sizes))
                self._first = sizes, self._compiled(model)
            if self._first[0] == sizes:
                return self._first[1]
            if self._others is None:
                self._others = self._compiled(self._model)
            return self._others

    def _compiled(self, model: Any) -> Any:
        return self._core.compile_model(model, self._device, self._options).create_infer_request()


def is_installed() -> bool:
    return find_spec("openvino") is not None


def _together(branch: SourceBranch) -> SourceBranch:
    """A source branch that ran hop by hop as one that ran in one call: one list serves all hops."""
    features = [np.concatenate(of_hops) for of_hops in zip(*branch.features, strict=True)]
    return branch._replace(features=[features] * len(branch.features))


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """OpenVINO raises RuntimeError with pages of text."""
    try:
        yield
    except Exception as error:
        raise BundleError(f"{path} cannot be loaded by OpenVINO: {_line(error)}") from None


@cache
def openvino_core() -> Any:
    """The process's own openvino.Core. RunnerError where OpenVINO is not installed.

    Only ever one, and never given back: each one's plugin for CPUs puts a signal stack in place, and
    puts back what it found when it goes. Of two that go in another order than they came, a freed one
    stays in place, and the next signal (Ctrl-C, say) ends the process by a segmentation fault.
    """
    without_reports()
    try:
        import openvino
    except ImportError:
        raise RunnerError(WITHOUT) from None
    return openvino.Core()


def without_reports() -> None:
    """To be called before openvino is first imported: as it is imported it reports to its maker, and
    writes an identity into the user's home. Without the package that does it, it does neither."""
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]


def _checked_device(core: Any, device: str) -> str:
    """OpenVINO's name of "auto", "cpu" or "openvino:NAME" (GPU, GPU.1, NPU). RunnerError for one that
    is not there."""
    kind, _, name = device.partition(":")
    if device in ("auto", "cpu"):
        return "CPU"
    if kind != "openvino" or not name:
        raise RunnerError(
            f"unknown device {device!r}: OpenVINO takes auto, cpu or openvino:NAME, its own name"
        )
    available = core.available_devices
    if name.upper() not in available:
        raise RunnerError(
            f"device {device!r} was asked for, but OpenVINO has only {', '.join(available)} here"
        )
    return name.upper()


def _checked_precision(core: Any, device: str, dtype: str) -> str:
    """For "auto" bfloat16 where the device computes in it, else float32. RunnerError for what it does
    not compute in."""
    able = {"float32", *abilities(core, device)}
    if dtype == "auto":
        return "bfloat16" if "bfloat16" in able else "float32"
    if dtype not in able:
        raise RunnerError(
            f"this device computes in {', '.join(sorted(able))} by OpenVINO, not in {dtype!r}"
        )
    return dtype


def takes_bfloat16(device: str, dtype: str) -> bool:
    """Whether networks compute in bfloat16 there: by that name, or by "auto" where the device does.
    RunnerError for a device that is not there, and for what it does not compute in."""
    core = openvino_core()
    return _checked_precision(core, _checked_device(core, device), dtype) == "bfloat16"


def abilities(core: Any, device: str) -> set[str]:
    """Precisions beside float32 that OpenVINO says a device computes in."""
    known = {"BF16": "bfloat16", "FP16": "float16"}
    listed = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    return {known[name] for name in listed if name in known}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
