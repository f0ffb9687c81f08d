"""A bundle -> a folder of graphs, checked against torch and written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from export.graphs import GraphSpec, hop_graphs, loop_graphs, pair_graph, standard_graphs
from export.networks import PRECISIONS, ExportNetworks
from export.triton_server import write_config
from export.weights_file import WeightsFile
from icd_engine import __version__
from icd_engine.bundles.bundle import Bundle, read_bundle, write_record
from icd_engine.bundles.exported import FORMAT, LAYOUTS, MANIFEST, RUN, STORED
from icd_engine.bundles.files import file_digest, write_file
from icd_engine.bundles.target import new_folder
from icd_engine.errors import BundleError, RunnerError, SettingsError
from icd_engine.runners.openvino import without_reports

Layout = Literal["optimum", "triton", "openvino"]
# Writes a graph to a path, its weights to the file; returns its distance from torch, if measured
Write = Callable[[GraphSpec, Path, WeightsFile], float | None]
Report = Callable[[str, int, int], Any]  # name of the graph begun, how many are done, of how many
SERVED = (
    "text_encoder",
    "text_encoder_2",
    "vae_encoder",
    "vae_decoder",
    "encode_hop",
    "decode_pairs",
    "encode",
    "decode",
)
OPSETS = (20, 23)  # the widest support; Attention and GroupNormalization as single nodes
# Files of weights beside graphs, by the graphs' suffix
DATA = {".onnx": "model.onnx_data", ".xml": "model.bin"}
BY_ONNX = ("torch", "onnx", "onnxscript")
PRODUCERS = {"optimum": BY_ONNX, "triton": BY_ONNX, "openvino": ("torch", "openvino")}
# What an exported folder keeps of the bundle as it is.
COPIED = (
    "tokenizer",
    "tokenizer_2",
    "scheduler",
    "model_index.json",
    "demo.png",
    "demo.json",
    "LICENSE",
)


def export_bundle(
    bundle: Bundle,
    out: str | Path,
    *,
    opset: int = 20,
    precision: str = "fp32",
    layout: Layout = "optimum",
    unrolled: bool = False,
    verify: bool = True,
    overwrite: bool = False,
    report: Report | None = None,
) -> dict[str, Any]:
    """Writes the exported folder and returns its manifest.

    layout "optimum": standard parts and editing graphs beside them, sharing weights;
    `Engine.from_pretrained` runs it. "triton": a model repository of NVIDIA's inference server in
    out/models. "openvino": models of OpenVINO, written in seconds and run by it alone; ONNX and its
    opset have no part in it. unrolled adds graphs of whole loops. precision "fp16" halves UNets and
    text encoder; of layout "openvino" it rounds the weights alone, "int8" stores those of UNets
    and text encoder in 8 bits, and "bf16" has all networks compute in it, which takes half the
    memory. verify runs every graph against torch. Raises SettingsError, RunnerError where packages
    are missing, or BundleError where the bundle cannot be exported, a graph is wrong or `out` cannot
    be written; then nothing is left there.
    """
    _check_choices(opset, precision, layout)
    if bundle.exported is not None:
        raise BundleError(f"{bundle.path} is exported already: give the bundle it was made of")
    if not bundle.guidance_embedded:
        raise BundleError(
            f"{bundle.path}: only guidance-distilled networks are exported (unet has no time_cond_proj_dim)"
        )
    write = _writer(layout, opset, precision, verify)
    out = Path(out)
    with new_folder(out, overwrite) as new:
        own = "fp32" if layout == "openvino" and precision != "bf16" else precision
        graphs = _graphs(ExportNetworks.load(bundle, own), layout, unrolled)
        manifest = {
            "format": FORMAT,
            "layout": layout,
            "opset": None if layout == "openvino" else opset,
            "precision": precision,
            "producer": {"icd-engine": __version__}
            | {name: version(name) for name in PRODUCERS[layout]},
            "graphs": _write_graphs(new, graphs, write, report),
        }
        _copy(bundle, new)
        if layout in RUN:
            for part, config in _configs(bundle).items():
                write_file(new, f"{part}/config.json", bundle.config(config))
        for graph in graphs if layout == "triton" else ():
            write_config(graph, new / graph.file)
        write_file(new, MANIFEST, manifest)
        files = sorted(path for path in new.rglob("*") if path.is_file())
        digests = {path.relative_to(new).as_posix(): file_digest(path) for path in files}
        write_record(new, _record(bundle), digests)
        if layout in RUN:
            read_bundle(new, verify=False)  # every digest was taken a moment ago
    return manifest


def _check_choices(opset: int, precision: str, layout: str) -> None:
    """Raises SettingsError naming the first that is none of its choices."""
    for name, value, known in (
        ("opset", opset, OPSETS),
        ("layout", layout, LAYOUTS),
        ("precision", precision, STORED if layout == "openvino" else PRECISIONS),
    ):
        if value not in known:
            raise SettingsError(
                f"{name} must be one of {', '.join(map(str, known))}, not {value!r}"
            )


def _graphs(networks: ExportNetworks, layout: Layout, unrolled: bool) -> list[GraphSpec]:
    graphs = (
        standard_graphs(networks)
        + hop_graphs(networks)
        + (loop_graphs(networks) if unrolled else [])
    )
    if layout == "optimum":
        return graphs
    if (
        layout == "openvino"
    ):  # no stock tool loads its networks, and this engine runs hops to encode
        own = [graph for graph in graphs if graph.name != "unet_forward"]
        return [graph.moved(str(PurePosixPath(graph.file).with_suffix(".xml"))) for graph in own]
    graphs.append(pair_graph(networks))
    return [
        graph.moved(f"models/{graph.name}/1/model.onnx") for graph in graphs if graph.name in SERVED
    ]


def _writer(layout: str, opset: int, precision: str, verify: bool) -> Write:
    """What writes graphs of a layout. Either needs packages that the other does without: RunnerError
    where they are not installed."""
    extra = "onnx]' (or onnx-gpu)"
    try:
        if layout == "openvino":
            extra = "openvino]'"
            without_reports()
            from export.openvino_files import write_openvino

            return partial(write_openvino, precision=precision, verify=verify)
        from export.onnx_files import write_onnx

        return partial(write_onnx, opset=opset, verify=verify)
    except ImportError as error:
        raise RunnerError(f"exporting needs pip install 'icd-engine[{extra}: {error}") from None


def _write_graphs(
    new: Path, graphs: list[GraphSpec], write: Write, report: Report | None
) -> dict[str, dict[str, Any]]:
    """The entries of the manifest."""
    weights: dict[Path, WeightsFile] = {}
    entries = {}
    for i, graph in enumerate(graphs):
        if report is not None:
            report(graph.name, i, len(graphs))
        path = new / graph.file
        if path.parent not in weights:
            weights[path.parent] = WeightsFile(path.with_name(DATA[path.suffix]))
        error = write(graph, path, weights[path.parent])
        entries[graph.name] = {
            "file": graph.file,
            "data": weights[path.parent].path.relative_to(new).as_posix(),
            "sha256": file_digest(path),
            "error": error,
            "inputs": _described(graph.inputs.items()),
            "outputs": _described(graph.outputs.items()),
        }
    return entries


def _described(ports: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {
        name: {"shape": list(port.axes), "dtype": str(port.dtype).removeprefix("torch.")}
        for name, port in ports
    }


def _copy(bundle: Bundle, new: Path) -> None:
    for name in COPIED:
        source = bundle.path / name
        for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
            if path.is_file():
                write_file(new, path.relative_to(bundle.path).as_posix(), path)


def _configs(bundle: Bundle) -> dict[str, str]:
    """Exported part -> the bundle's part that describes it."""
    own = {part: part for part in bundle.configs if part.startswith(("text_encoder", "unet"))}
    return own | {"vae_encoder": "vae", "vae_decoder": "vae"}


def _record(bundle: Bundle) -> dict[str, Any]:
    """The fields of the bundle's icd.json."""
    return {
        "family": bundle.family,
        "encode_times": list(bundle.encode_times),
        "encode_end": bundle.encode_end,
        "decode_times": list(bundle.decode_times),
        "size": list(bundle.size),
        "blend_downscale": bundle.blend_downscale,
        "share_downscale": bundle.share_downscale,
        "defaults": bundle.defaults,
        "origin": bundle.origin,
    }
