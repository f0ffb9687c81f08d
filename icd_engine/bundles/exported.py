"""manifest.json of an exported bundle: its graphs, what goes in and out of them, and whether
they are whole."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from icd_engine.bundles.files import file_digest, read_json, require_file
from icd_engine.errors import BundleError

MANIFEST = "manifest.json"
FORMAT = 2  # 1 had no ports for anchored decoding
LAYOUTS = ("optimum", "triton", "openvino")
RUN = ("optimum", "openvino")  # by this engine; the others are for servers
STORED = ("fp32", "fp16", "bf16", "int8")  # precisions; the last two of layout "openvino" alone
NEEDED = ("vae_encoder", "vae_decoder", "unet", "encode_hop", "decode_hop", "further_hop")


@dataclass(frozen=True)
class ExportedGraph:
    """One file, relative to the folder, and the file of its weights; sha256 of the graph without
    them.

    error: the largest difference to torch, relative to the largest value, when it was exported;
    None: not measured.
    """

    file: str
    data: str | None
    sha256: str
    error: float | None


@dataclass(frozen=True)
class Exported:
    """What manifest.json says: graphs by name, their layout, their ONNX opset (None: they are not
    ONNX), and the precision of the UNets, one of STORED."""

    graphs: dict[str, ExportedGraph]
    layout: str
    opset: int | None
    precision: str


def read_manifest(folder: Path) -> Exported | None:
    """The manifest of an exported bundle, None for a folder that has none. Every graph is there and
    as exported.

    Graphs are small and always hashed; their weights are hashed with the other files of the bundle.
    Raises BundleError naming the file.
    """
    if not (folder / MANIFEST).is_file():
        return None
    manifest = read_json(folder, MANIFEST)
    if manifest.get("format") != FORMAT:
        found = manifest.get("format")
        raise BundleError(
            f"{MANIFEST}: format must be {FORMAT}, not {found!r}: export the model again"
        )
    layout = manifest.get("layout")
    if layout not in RUN:
        raise BundleError(
            f"{MANIFEST}: layout {layout!r} is for servers: export with --layout {' or '.join(RUN)}"
        )
    entries = manifest.get("graphs")
    opset = manifest.get("opset")
    precision = manifest.get("precision")
    if (
        not isinstance(entries, dict)
        or isinstance(opset, int) != (layout == "optimum")
        or precision not in STORED
    ):
        raise BundleError(f"{MANIFEST} must hold graphs, opset and precision ({', '.join(STORED)})")
    graphs = {name: _graph(name, entry) for name, entry in entries.items()}
    for name in NEEDED:
        if name not in graphs:
            raise BundleError(f"{MANIFEST}: the graph {name} is missing")
    for graph in graphs.values():
        if file_digest(require_file(folder, graph.file)) != graph.sha256:
            raise BundleError(
                f"{graph.file} was changed or damaged (SHA-256 differs from {MANIFEST})"
            )
        if graph.data is not None:
            require_file(folder, graph.data)
    return Exported(graphs, layout, opset, precision)


def _graph(name: str, entry: Any) -> ExportedGraph:
    if not isinstance(entry, Mapping):
        raise BundleError(f"{MANIFEST}: {name} must be an object")
    file, data, digest, error = (entry.get(key) for key in ("file", "data", "sha256", "error"))
    for path in (file, data):
        inside = (
            isinstance(path, str)
            and not PurePosixPath(path).is_absolute()
            and ".." not in PurePosixPath(path).parts
        )
        if not inside and not (path is None and path is data):
            raise BundleError(f"{MANIFEST}: {name}: {path!r} is not a path inside the folder")
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise BundleError(f"{MANIFEST}: {name}: sha256 must be 64 hexadecimal digits")
    return ExportedGraph(str(file), data, digest, error if isinstance(error, float | int) else None)
