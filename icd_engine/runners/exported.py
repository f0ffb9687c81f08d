"""An exported bundle -> what runs it: onnxruntime or OpenVINO."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec

from icd_engine.bundles.bundle import Bundle
from icd_engine.errors import RunnerError
from icd_engine.placement import PLAIN, Placement
from icd_engine.runners.onnx import DTYPES, GraphedOnnxRunner, OnnxRunner
from icd_engine.runners.onnx_session import GraphSession, choose_onnx_device
from icd_engine.runners.openvino import OpenVinoRunner, is_installed

KNOWN = ("auto", "onnx", "onnx-graph", "openvino")


def load_exported_runner(bundle: Bundle, placement: Placement = PLAIN) -> OnnxRunner:
    """The runner of an exported bundle. Raises BundleError, RunnerError."""
    exported = bundle.exported
    assert exported is not None
    runner = placement.runner
    if runner not in KNOWN:
        raise RunnerError(
            f"an exported folder is run by onnxruntime or OpenVINO: runner must be {', '.join(KNOWN)}, "
            f"not {runner!r}"
        )
    if placement.weights != "fused" or placement.offload or placement.vae_tiling:
        raise RunnerError(
            "an exported folder has whole networks in one place: no weights, offload or vae_tiling"
        )
    if runner == "openvino" or (
        runner == "auto" and not find_spec("onnxruntime") and is_installed()
    ):
        return OpenVinoRunner(bundle, exported, placement.device, placement.dtype)
    own = DTYPES[exported.precision]
    if placement.dtype not in ("auto", own):
        raise RunnerError(
            f"this folder was exported in {own} and cannot run in {placement.dtype!r} by onnxruntime"
        )
    place = choose_onnx_device(placement.device)
    if runner == "onnx-graph" and place.kind != "cuda":
        raise RunnerError(
            "runner 'onnx-graph' replays CUDA graphs: it needs a CUDA device and onnxruntime-gpu"
        )
    if runner == "onnx-graph":
        return GraphedOnnxRunner(bundle, exported, place)
    return OnnxRunner(bundle, exported, place.name, partial(GraphSession, device=place))
