"""A written graph held to the module it was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.graphs import GraphSpec
from icd_engine.errors import BundleError
from icd_engine.runners.onnx_options import make_session, session_options
from icd_engine.runners.openvino import openvino_core

Run = Callable[[Sequence[str], dict[str, np.ndarray]], Sequence[Any]]  # outputs by name, of inputs
# Largest difference, relative to the largest value. In half precision torch and onnxruntime round
# at different places, and a hop has some hundred roundings of 2^-11 on its way (in bfloat16 of 2^-8). So
# it has where weights alone are rounded; to 8 bits that moves each layer's sums by about a hundredth,
# and one after the other.
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1.6e-1, "int8": 1e-1}
# ExportNetworks that magnify roundings are allowed more: so many times what one rounding of the inputs
# does in torch, for the root of the few hundred roundings on the way from input to output.
ROUNDINGS = 20


def check_onnx(graph: GraphSpec, path: Path) -> float:
    """`check`, of an ONNX file by onnxruntime."""
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
        session = make_session(str(path), session_options(), ["CPUExecutionProvider"])
    except Exception as error:  # both libraries raise classes of their own
        raise _invalid(graph, error) from None
    return check(graph, session.run, "onnxruntime")


def check_openvino(graph: GraphSpec, path: Path, weights: Path, precision: str) -> float:
    """`check`, of an OpenVINO model by OpenVINO in single precision; precision: of stored weights."""
    core = openvino_core()
    try:
        model = core.read_model(path, weights)
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except Exception as error:
        raise _invalid(graph, error) from None

    def run(names: Sequence[str], inputs: dict[str, np.ndarray]) -> list[Any]:
        outputs = compiled(inputs)
        return [outputs[name] for name in names]

    return check(graph, run, "OpenVINO", precision)


def _invalid(graph: GraphSpec, error: Exception) -> BundleError:
    text = " ".join(str(error).split())[:300]
    return BundleError(f"{graph.name}: the exported graph is not valid: {text}")


def check(graph: GraphSpec, run: Run, by: str, stored: str = "fp32") -> float:
    """The largest relative difference to torch over all outputs and sizes; by: whose answers `run`
    gives; stored: the precision of weights that were rounded on the way.

    BundleError where they are wrong.
    """
    dtypes = {parameter.dtype for parameter in graph.module.parameters()}
    dtype = next((own for own in (torch.float16, torch.bfloat16) if own in dtypes), torch.float32)
    half = dtype != torch.float32
    tolerance = TOLERANCE["fp16" if dtype == torch.float16 else stored]
    worst = 0.0
    for sizes in graph.sizes:
        inputs = graph.example(sizes)
        if (half or stored != "fp32") and "use_blend" in inputs:
            # A rounding moves a word map across the threshold: masks cannot be compared then.
            inputs["use_blend"] = torch.zeros_like(inputs["use_blend"])
        expected = graph.run(inputs)
        got = run(list(graph.outputs), {name: value.numpy() for name, value in inputs.items()})
        for name, array in zip(graph.outputs, got, strict=True):
            theirs = expected[name].float().numpy()
            ours = np.asarray(array, dtype=np.float32)
            if ours.shape != theirs.shape:
                raise BundleError(
                    f"{graph.name}: {name} is {list(ours.shape)}, but {list(theirs.shape)} in torch"
                )
            distance = relative(ours, theirs)
            if not distance <= tolerance:
                limit = ROUNDINGS * sensitivity(graph, inputs, expected, name, dtype)
                if not distance <= limit:
                    about = f"by {distance:.1e} in {name}, more than {max(limit, tolerance):.0e}"
                    raise BundleError(f"{graph.name}: {by} differs from torch {about}")
            worst = max(worst, distance)
    return worst


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def sensitivity(
    graph: GraphSpec,
    inputs: dict[str, Tensor],
    expected: dict[str, Tensor],
    name: str,
    dtype: torch.dtype,
) -> float:
    """What one rounding of every input changes in an output of the module."""
    generator = torch.Generator().manual_seed(0)

    def rounded(value: Tensor) -> Tensor:
        noise = torch.randn(value.shape, generator=generator) * torch.finfo(dtype).eps
        return (value.float() * (1 + noise)).to(value.dtype) if value.is_floating_point() else value

    again = graph.run({port: rounded(value) for port, value in inputs.items()})
    return relative(again[name].float().numpy(), expected[name].float().numpy())
