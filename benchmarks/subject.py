"""The engine that is measured: opened on a device, asked for edits, beside the runner that defines
its answers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.architectures import architecture_bundle
from benchmarks.workload import Case
from icd_engine.bundles.bundle import Bundle, read_bundle
from icd_engine.bundles.pull import located
from icd_engine.engine import Engine
from icd_engine.loading import choose_device, choose_dtype
from icd_engine.results import EditResult
from icd_engine.runners.compiled import can_compile
from icd_engine.runners.openvino import abilities, is_installed, openvino_core


@dataclass(frozen=True)
class Subject:
    """An engine, where it runs, and how long loading took (file reads included, imports not)."""

    engine: Engine
    name: str
    device: torch.device
    dtype: torch.dtype
    size: tuple[int, int]
    load_ms: float
    compile: str = "cheap"

    def edit(self, case: Case, engine: Engine | None = None) -> EditResult:
        engine = engine or self.engine
        return engine.edit(case.picture, case.source, case.target, size=self.size, **case.settings)

    @property
    def exact(self) -> bool:
        """Whether it computes in float32 without TF32, so that only the order of sums tells it from
        another."""
        return self.dtype == torch.float32 and self.device.type == "cpu"

    def truth(self) -> Engine:
        """The same model on the same device by the runner that defines the others' answers, in
        float32."""
        if self.exact and self.engine.runner.reference:
            return self.engine
        path = self.engine.bundle.path
        return Engine.from_pretrained(
            path, device=str(self.device), dtype="float32", runner="eager"
        )

    def as_dict(self) -> dict[str, object]:
        return {
            "model": self.name,
            "size": list(self.size),
            "runner": self.engine.runner.name,
            "device_type": self.device.type,
            "dtype": str(self.dtype).removeprefix("torch."),
            "compile": self._tuning(),
        }

    def _tuning(self) -> str | None:
        """How code for CUDA was tuned; None where none was compiled for it."""
        if self.device.type != "cuda" or not self.engine.runner.warms_up:
            return None
        searched = ", cudnn.benchmark" if torch.backends.cudnn.benchmark else ""
        return f"{self.compile}{searched}"


def fastest(runner: str, device: str, dtype: str) -> tuple[str, str]:
    """(runner, dtype) where either is "auto": not the engine's choice, which is kind to the first
    edit, but the fastest after it. On the CPU that is OpenVINO where it is installed, else compiled
    code, in bfloat16 where the processor computes in it (compiled code: multiplies its matrices,
    AMX).
    """
    place = choose_device(device)
    if place.type == "cpu":
        if runner == "auto" and is_installed():
            runner = "openvino"
        if runner == "openvino" and dtype == "auto":
            able = abilities(openvino_core(), "CPU")
            dtype = "bfloat16" if "bfloat16" in able else "float32"
        if runner == "auto" and can_compile(place):
            runner = "compiled"
        known = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.11 cannot tell
        if dtype == "auto" and runner == "compiled" and known.get("amx_bf16"):
            dtype = "bfloat16"
    return runner, dtype


def measured_bundle(model: str, architecture: str | None, size: int | None) -> tuple[Bundle, str]:
    """A model's bundle, or that of an architecture with random weights, and its name in results.

    IcdError for what cannot be read or had.
    """
    if architecture is None:
        return read_bundle(located(model)), model
    return architecture_bundle(architecture, size), f"{architecture} (random weights)"


def open_subject(
    model: str = "tiny",
    architecture: str | None = None,
    size: int | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    runner: str = "auto",
    compile: str = "cheap",
) -> Subject:
    """The engine of a bundle, or of an architecture with random weights in its place.

    IcdError as the engine's.
    """
    place = choose_device(device)
    precision = choose_dtype(dtype, device)
    path = model if architecture is None else architecture_bundle(architecture, size).path
    name = model if architecture is None else f"{architecture} (random weights)"
    started = time.perf_counter()
    engine = Engine.from_pretrained(
        path, device=device, dtype=dtype, runner=runner, compile=compile
    )
    load_ms = round(1000 * (time.perf_counter() - started), 1)
    shown = (size, size) if size else engine.bundle.size
    return Subject(engine, name, place, precision, shown, load_ms, compile)


def measure_bundle(name: str, size: int | None = None) -> dict[str, Any]:
    """Seconds until the bundle is there: made now, or before. BundleError for an unknown architecture."""
    started = time.perf_counter()
    bundle = architecture_bundle(name, size)
    seconds = round(time.perf_counter() - started, 2)
    return {"model": f"{name} (random weights)", "size": list(bundle.size), "s": seconds}


def final_latents(result: EditResult) -> Tensor:
    """[1 + targets, 4, h, w]: the source row, then the targets."""
    return torch.cat([torch.as_tensor(result.source_latents), torch.as_tensor(result.latents)])
