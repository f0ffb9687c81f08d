"""An ONNX file held to the module it was made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from export.graphs import Graph
from icd_engine.errors import BundleError

# Largest difference, relative to the largest value. In half precision torch and onnxruntime round at different places,
# and a hop has some hundred roundings of 2^-11 on its way.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2}


def check(graph: Graph, path: Path) -> float:
    """The largest relative difference to torch over all outputs and sizes. BundleError where the file is wrong."""
    import onnx
    import onnxruntime

    try:
        onnx.checker.check_model(str(path), full_check=True)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # both libraries raise classes of their own
        raise BundleError(
            f"{graph.name}: the exported graph is not valid: {' '.join(str(error).split())[:300]}"
        ) from None
    half = any(parameter.dtype == torch.float16 for parameter in graph.module.parameters())
    worst = 0.0
    for sizes in graph.sizes:
        inputs = graph.example(sizes)
        if half and "use_blend" in inputs:
            # A rounding moves a word map across the threshold: the masks of half precision cannot be compared.
            inputs["use_blend"] = torch.zeros_like(inputs["use_blend"])
        expected = graph.run(inputs)
        got = session.run(list(graph.outputs), {name: value.numpy() for name, value in inputs.items()})
        for name, array in zip(graph.outputs, got, strict=True):
            theirs = expected[name].float().numpy()
            ours = np.asarray(array, dtype=np.float32)
            if ours.shape != theirs.shape:
                raise BundleError(f"{graph.name}: {name} is {list(ours.shape)}, but {list(theirs.shape)} in torch")
            worst = max(worst, float(np.abs(ours - theirs).max() / np.abs(theirs).max()))
    limit = TOLERANCE[torch.float16 if half else torch.float32]
    if not worst <= limit:
        raise BundleError(f"{graph.name}: onnxruntime differs from torch by {worst:.1e}, more than {limit:.0e}")
    return worst
