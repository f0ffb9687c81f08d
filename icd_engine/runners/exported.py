"""An exported bundle -> what runs it: onnxruntime or OpenVINO."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from icd_engine.bundles.bundle import Bundle
from icd_engine.errors import RunnerError
from icd_engine.placement import PLAIN, Placement
from icd_engine.runners.onnx import DTYPES, GraphedOnnxRunner, OnnxRunner, sessions_on
from icd_engine.runners.onnx_session import choose_onnx_device
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
    check_whole(placement)
    if exported.layout == "openvino" and runner not in ("auto", "openvino"):
        raise RunnerError(
            f"{bundle.path} was exported for OpenVINO alone: runner {runner!r} is not it"
        )
    if runner == "openvino" or exported.layout == "openvino" or _runs_on_openvino(placement):
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
    return OnnxRunner(bundle, exported, place.name, sessions_on(place))


def check_whole(placement: Placement) -> None:
    """RunnerError where a placement asks for what only runners on torch do."""
    if placement.weights != "fused" or placement.offload or placement.vae_tiling:
        raise RunnerError(
            "exported graphs have whole networks in one place: no weights, offload or vae_tiling"
        )


def _runs_on_openvino(placement: Placement) -> bool:
    """Whether "auto" takes OpenVINO for ONNX graphs: where it is installed, but for CUDA."""
    if placement.runner != "auto" or not is_installed():
        return False
    if placement.device == "cpu" or placement.device.startswith("openvino"):
        return True
    return placement.device == "auto" and not (
        _has_onnxruntime_for_cuda() and choose_onnx_device("auto").kind == "cuda"
    )


def _has_onnxruntime_for_cuda() -> bool:
    """Asked of the installation: onnxruntime itself takes a while to load."""
    try:
        return bool(version("onnxruntime-gpu"))
    except PackageNotFoundError:
        return False
