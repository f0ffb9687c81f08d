"""The OpenVINO runner: the graphs of an exported bundle, as fast as Intel's and AMD's processors do
them, ready in a second; without torch, without onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from icd_engine.bundles.bundle import Bundle
from icd_engine.bundles.exported import Exported
from icd_engine.errors import BundleError, RunnerError
from icd_engine.runners.onnx import OnnxRunner
from icd_engine.runners.onnx_session import KEPT
from icd_engine.threads import compute_threads

HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
WITHOUT = "runner 'openvino' needs OpenVINO: pip install 'icd-engine[openvino]'"


class OpenVinoRunner(OnnxRunner):
    """Runs an exported bundle by OpenVINO. Latents are float32 between calls, whatever the precision
    that networks compute in."""

    name = "openvino"

    def __init__(self, bundle: Bundle, exported: Exported, device: str, dtype: str):
        core = _core()
        place = _checked_device(core, device)
        hint = _checked_precision(core, place, dtype)
        make = partial(GraphInOpenVino, core=core, device=place, precision=HINTS[hint])
        super().__init__(bundle, exported, "cpu" if place == "CPU" else f"openvino:{place}", make)
        self.dtype = hint


class GraphInOpenVino:
    """One ONNX graph; may be called from several threads, each with a request of its own.

    precision: what it computes in: f32, bf16 or f16. BundleError where OpenVINO cannot load it.
    """

    def __init__(self, path: Path, core: Any, device: str, precision: str):
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision}
        if device == "CPU":
            options["INFERENCE_NUM_THREADS"] = compute_threads()
        try:
            self._compiled = core.compile_model(str(path), device, options)
        except Exception as error:  # OpenVINO raises RuntimeError with pages of text
            raise BundleError(f"{path} cannot be loaded by OpenVINO: {_line(error)}") from None
        self._path = path
        self._types = {
            port.any_name: port.element_type.to_dtype() for port in self._compiled.inputs
        }
        names = [port.any_name for port in self._compiled.outputs]
        self._place = {name: i for i, name in enumerate(names)}
        self.kept = [name for name in names if name.startswith(KEPT)]

    def __call__(self, inputs: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        """Arrays in and out."""
        request = self._compiled.create_infer_request()
        feeds = {
            name: np.ascontiguousarray(inputs[name], dtype=kind)
            for name, kind in self._types.items()
        }
        try:
            request.infer(feeds, share_inputs=True)
        except Exception as error:
            raise RunnerError(f"OpenVINO failed in {self._path.name}: {_line(error)}") from None
        return [request.get_output_tensor(self._place[name]).data.copy() for name in outputs]


def is_installed() -> bool:
    return find_spec("openvino") is not None


def _core() -> Any:
    """RunnerError where OpenVINO is not installed."""
    try:
        import openvino
    except ImportError:
        raise RunnerError(WITHOUT) from None
    return openvino.Core()


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
    """float32 for "auto". RunnerError for what the device does not compute in."""
    if dtype == "auto":
        return "float32"
    able = {"float32", *_abilities(core, device)}
    if dtype not in able:
        raise RunnerError(
            f"this device computes in {', '.join(sorted(able))} by OpenVINO, not in {dtype!r}"
        )
    return dtype


def _abilities(core: Any, device: str) -> set[str]:
    known = {"BF16": "bfloat16", "FP16": "float16"}
    listed = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    return {known[name] for name in listed if name in known}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
