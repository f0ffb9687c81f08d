"""A folder of weights run by OpenVINO: converted to its graphs once, by a process of its own, and kept
for every later load, which then needs no torch."""

from __future__ import annotations

import subprocess
import sys
import warnings
from ctypes import CDLL
from pathlib import Path
from typing import Any

import numpy as np

from icd_engine.bundles.bundle import Bundle, read_bundle
from icd_engine.bundles.kept_graphs import PRECISIONS, converted_folder, is_converted
from icd_engine.bundles.target import RECORD
from icd_engine.errors import RunnerError
from icd_engine.placement import Placement
from icd_engine.processes import of_module
from icd_engine.runners.exported import check_whole
from icd_engine.runners.openvino import (
    WITHOUT,
    OpenVinoRunner,
    abilities,
    is_installed,
    openvino_core,
    takes_bfloat16,
)

DRIVERS = {"win32": "nvcuda.dll", "linux": "libcuda.so.1"}  # CUDA's, by platform


class ConvertedRunner(OpenVinoRunner):
    """Runs graphs of a folder of weights, which comes with torch."""

    gives_torch = True

    def as_torch(self, values: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(values)


def runs_converted(bundle: Bundle, placement: Placement) -> bool:
    """Whether a folder of weights runs on OpenVINO: where that is asked for, and for "auto" on a CPU
    where the conversion is kept, so that nobody waits for one."""
    if placement.runner != "auto":
        return placement.runner == "openvino"
    plain = placement.weights == "fused" and not placement.offload and not placement.vae_tiling
    on_cpu = placement.device == "cpu" or (placement.device == "auto" and not _has_cuda())
    able = plain and on_cpu and is_installed() and bundle.guidance_embedded
    if not (able and is_converted(bundle, *PRECISIONS)):
        return False
    computed = ("auto", "float32", *abilities(openvino_core(), "CPU"))
    return placement.dtype in computed and is_converted(bundle, _precision(placement))


def load_converted_runner(bundle: Bundle, placement: Placement) -> ConvertedRunner:
    """Converts the folder where that has not been done. Raises BundleError, RunnerError."""
    if not is_installed():
        raise RunnerError(WITHOUT)
    if not bundle.guidance_embedded:
        raise RunnerError(
            f"runner 'openvino' runs guidance-distilled networks: {bundle.path} has no time_cond_proj_dim"
        )
    check_whole(placement)
    precision = _precision(placement)
    folder = converted_folder(bundle, precision)
    if not (folder / RECORD).is_file():
        _convert(bundle, folder, precision)
    graphs = read_bundle(folder)
    assert graphs.exported is not None
    return ConvertedRunner(graphs, graphs.exported, placement.device, placement.dtype)


def _precision(placement: Placement) -> str:
    """That of the conversion: graphs that were exported in bfloat16 hold their weights once in memory,
    all others in float32 beside it."""
    return "bf16" if takes_bfloat16(placement.device, placement.dtype) else "fp32"


def _convert(bundle: Bundle, folder: Path, precision: str) -> None:
    """Waits where another process is at it."""
    from filelock import FileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if (folder / RECORD).is_file():
                return
            warnings.warn(
                f"{bundle.path.name} is converted for OpenVINO now, once; it is kept in {folder}",
                stacklevel=2,
            )
            _export(bundle, folder, precision)
    except OSError as error:
        raise RunnerError(
            f"{folder} cannot be written: {error.strerror or error} (ICD_HOME names another folder)"
        ) from None


def _export(bundle: Bundle, folder: Path, precision: str) -> None:
    """In a process of its own: what torch and the conversion have taken is given back with it, and
    exporting lies above this floor. RunnerError where it fails."""
    arguments = [str(bundle.path), "--out", str(folder), "--layout", "openvino", "--quiet"]
    arguments += ["--precision", precision]
    done = subprocess.run(
        **of_module("export", arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        told = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RunnerError(
            f"{bundle.path} could not be converted for OpenVINO: {told[-1].removeprefix('error: ')}"
        )


def _has_cuda() -> bool:
    """Whether CUDA's driver is here, without asking torch, which takes seconds to load."""
    try:
        CDLL(DRIVERS[sys.platform])
    except (OSError, KeyError):
        return False
    return True
