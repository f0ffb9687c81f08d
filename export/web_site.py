"""A model as a site of static files that edits pictures in the visitor's browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from export.check import check_onnx
from export.folder import Report
from export.graphs import GraphSpec, hop_graphs, standard_graphs
from export.half_storage import WeightParts, store_in_half
from export.networks import ExportNetworks
from export.onnx_files import save, to_onnx
from export.switched import switched_hop
from export.web_manifest import known_words, numbers, tokenizer_tables
from export.web_runtime import FILES, VERSION, runtime
from icd_engine.bundles.bundle import Bundle, read_bundle
from icd_engine.bundles.demo import PICTURE, read_demo
from icd_engine.bundles.files import file_digest, write_file
from icd_engine.bundles.target import RECORD as MANIFEST
from icd_engine.bundles.target import new_folder
from icd_engine.cli.ui import SCENES
from icd_engine.cli.web import LAYOUT
from icd_engine.errors import BundleError

PAGE = Path(__file__).with_name("web")
GRAPHS = ("text_encoder", "vae_encoder", "vae_decoder", "encode_hop", "decode_hop")
MOST_DATA = 2**30  # bytes of a file of weights: a page holds one in one piece
OPSET = 20


def export_site(
    bundle: Bundle,
    out: str | Path,
    *,
    with_runtime: bool = True,
    verify: bool = True,
    overwrite: bool = False,
    report: Report | None = None,
) -> dict[str, Any]:
    """Writes a folder that any web server can hand out, and returns its manifest: the page and its
    modules, model/ with graphs, weights and tables, and ort/ with onnxruntime-web.

    Weights that half precision holds exactly are stored in it; arithmetic is float32. A model of LoRA
    files has one network with their difference as an input (`switched`). with_runtime:
    see `web_runtime`. verify: see `folder.export_bundle`. BundleError where the model cannot be
    exported, or `out` cannot be written; then nothing is left there.
    """
    if bundle.exported is not None:
        raise BundleError(f"{bundle.path} is exported already: give the bundle it was made of")
    if not bundle.guidance_embedded:
        raise BundleError(
            f"{bundle.path}: only guidance-distilled networks are exported (unet has no time_cond_proj_dim)"
        )
    about = numbers(bundle)
    tables = tokenizer_tables(bundle.path / "tokenizer")
    ort = runtime() if with_runtime else None
    with new_folder(Path(out), overwrite) as new:
        networks = ExportNetworks.load(bundle, "fp32")
        graphs = _graphs(networks)
        entries = {}
        for i, graph in enumerate(graphs):
            if report is not None:
                report(graph.name, i, len(graphs))
            entries[graph.name] = _write_graph(graph, new, verify)
        write_file(new, "model/tokenizer.json", tables)
        for path in sorted(PAGE.iterdir()):
            write_file(new, path.name, path)
        if (bundle.path / "LICENSE").is_file():
            write_file(new, "model/LICENSE", bundle.path / "LICENSE")
        manifest = {
            "format": LAYOUT,
            **about,
            "graphs": entries,
            "tokenizer": _file(new, "model/tokenizer.json"),
            "knows": known_words(bundle.path / "tokenizer"),
            "examples": _examples(bundle, new),
            "runtime": {"onnxruntime-web": VERSION, "files": _runtime(ort, new)},
        }
        write_file(new, MANIFEST, manifest)
    return manifest


def _graphs(networks: ExportNetworks) -> list[GraphSpec]:
    """GRAPHS; of a model of LoRA files, whose networks differ by little, one for hops of both."""
    every = {graph.name: graph for graph in standard_graphs(networks) + hop_graphs(networks)}
    if networks.bundle.difference is None:
        return [every[name] for name in GRAPHS]
    own = [every[name] for name in GRAPHS if not name.endswith("_hop")]
    return [*own, switched_hop(networks, every["decode_hop"])]


def _write_graph(graph: GraphSpec, new: Path, verify: bool) -> dict[str, Any]:
    """The graph in model/, and its entry of the manifest."""
    path = new / "model" / f"{graph.name}.onnx"
    path.parent.mkdir(exist_ok=True)
    model = to_onnx(graph, OPSET)
    stored, kept = store_in_half(model)
    weights = WeightParts(path.with_suffix(".bin"), MOST_DATA)
    save(model, path, weights)
    return {
        **_file(new, f"model/{path.name}"),
        "data": [_file(new, f"model/{own.name}") for own in weights.paths],
        "error": check_onnx(graph, path) if verify else None,
        "weights": {"half": stored, "float": kept},
        "inputs": {name: _type(port.dtype) for name, port in graph.inputs.items()},
    }


def _type(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _file(new: Path, name: str) -> dict[str, Any]:
    """A file as pages fetch and check it."""
    return {"file": name, "bytes": (new / name).stat().st_size, "sha256": file_digest(new / name)}


def _examples(bundle: Bundle, new: Path) -> list[dict[str, Any]]:
    """The model's own demonstration, and scenes of the embedded model's world."""
    folders = [bundle.path] if (bundle.path / PICTURE).is_file() else []
    if bundle.fingerprint == read_bundle("tiny").fingerprint:
        folders += sorted(SCENES.iterdir())
    found = []
    for i, folder in enumerate(folders):
        demo = read_demo(folder)
        write_file(new, f"model/example_{i}.png", folder / PICTURE)
        found.append(
            {
                "picture": f"model/example_{i}.png",
                "source": demo.source,
                "target": demo.target,
                "settings": demo.settings,
            }
        )
    return found


def _runtime(ort: Path | None, new: Path) -> list[dict[str, Any]]:
    """The runtime's files in ort/."""
    if ort is None:
        return []
    for name in FILES:
        write_file(new, f"ort/{name}", ort / name)
    return [_file(new, f"ort/{name}") for name in FILES]
