"""A folder exported for OpenVINO: what is in it, how weights are stored, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export import openvino_files
from export.folder import export_bundle
from export.graphs import GraphSpec
from export.modules import PortModule
from export.openvino_files import save, to_openvino
from export.ports import Port
from export.weights_file import WeightsFile
from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.exported import read_manifest
from icd_engine.errors import BundleError, RunnerError

openvino = pytest.importorskip("openvino")
GRAPHS = ["text_encoder", "vae_encoder", "vae_decoder", "unet"]
GRAPHS += ["encode_hop", "decode_hop", "further_hop"]
WIDTH = 64


class Product(PortModule):
    """rows [n, WIDTH] times a matrix, and twice that by the same matrix."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, rows: torch.Tensor, unseen: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return rows @ self.weight, (2 * rows) @ self.weight


def product(weight: torch.Tensor) -> GraphSpec:
    port = Port(("rows", WIDTH))
    ports = {"rows": port, "unseen": Port((1,))}
    sizes = ({"rows": 3}, {"rows": 5})
    return GraphSpec(
        "product", "product.xml", Product(weight), ports, {"once": port, "twice": port}, sizes
    )


def test_the_folder_has_openvinos_files_alone(exported_for_openvino, small_bundle):
    manifest = json.loads((exported_for_openvino / "manifest.json").read_text())
    assert (manifest["layout"], manifest["opset"]) == ("openvino", None)
    assert set(manifest["producer"]) == {"icd-engine", "torch", "openvino"}
    assert list(manifest["graphs"]) == GRAPHS
    assert all(entry["error"] <= 1e-4 for entry in manifest["graphs"].values())
    kinds = {path.suffix for path in exported_for_openvino.rglob("*") if path.is_file()}
    assert ".onnx" not in kinds and {".xml", ".bin", ".json"} <= kinds
    exported = read_manifest(exported_for_openvino)
    assert exported is not None and exported.graphs["decode_hop"].data == "unet/model.bin"
    text = (exported_for_openvino / "unet" / "decode_hop.xml").read_text()
    assert str(small_bundle) not in text and "rt_info" not in text.rpartition("</layers>")[2]


def test_graphs_of_a_folder_share_their_weights(exported_for_openvino, small_bundle):
    weights = small_bundle / "unet" / "diffusion_pytorch_model.safetensors"
    shared = exported_for_openvino / "unet" / "model.bin"
    assert shared.stat().st_size < 1.5 * weights.stat().st_size  # three graphs, pages of padding


@pytest.mark.parametrize(
    ("exact", "precision", "bytes_each", "rounding"),
    [
        (True, "fp32", 2, 0.0),
        (False, "fp32", 4, 0.0),
        (False, "fp16", 2, 2.0**-11),
        (False, "int8", 1, 0.5 / 127),
    ],
)
def test_weights_are_made_small_where_that_loses_nothing_or_is_asked_for(
    tmp_path, exact, precision, bytes_each, rounding
):
    weight = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0))
    graph = product(weight.half().float() if exact else weight)
    file = WeightsFile(tmp_path / "model.bin")
    save(to_openvino(graph, precision), tmp_path / graph.file, file)
    assert file.path.stat().st_size < WIDTH**2 * bytes_each + 2 * 4096 + 1024  # pages of padding
    largest = float(weight.abs().max())
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(tmp_path / graph.file, file.path),
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32"},
    )
    for sizes in graph.sizes:
        inputs = graph.example(sizes)
        found = compiled({name: value.numpy() for name, value in inputs.items()})
        for name, wanted in graph.run(inputs).items():
            # Sums of WIDTH products: their roundings, and those of the weights
            inputs_largest = max(float(value.abs().max()) for value in inputs.values())
            allowed = WIDTH * (2.0**-23 + rounding * largest * inputs_largest)
            assert np.abs(found[name] - wanted.numpy()).max() <= allowed


def test_what_half_precision_cannot_hold_stays(tmp_path):
    weight = torch.full((WIDTH, WIDTH), 1e6)
    model = to_openvino(product(weight), "fp16")
    kinds = {node.get_element_type().to_string() for node in model.get_ops()}
    assert "f16" not in kinds


def test_a_graph_that_is_wrong_is_not_exported(small_bundle, tmp_path, monkeypatch):
    def wrong(graph, precision):
        model = to_openvino(graph, precision)
        if graph.name == "text_encoder":
            weight = graph.module.encoder.embeddings.token_embedding.weight
            weight.data = 1.01 * weight.data  # not in place: OpenVINO holds the very tensor
        return model

    monkeypatch.setattr(openvino_files, "to_openvino", wrong)
    with pytest.raises(BundleError, match="text_encoder: OpenVINO differs from torch"):
        export_bundle(read_bundle(small_bundle), tmp_path / "out", layout="openvino")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_export_leaves_nothing(small_bundle, tmp_path, monkeypatch):
    def interrupted(graph, precision):
        raise KeyboardInterrupt

    monkeypatch.setattr(openvino_files, "to_openvino", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_bundle(read_bundle(small_bundle), tmp_path / "out", layout="openvino", verify=False)
    assert not list(tmp_path.iterdir())


def test_in_bfloat16_no_weight_is_held_in_float32(small_bundle, tmp_path):
    """OpenVINO makes float32 of stored half precision and keeps that beside what it computes with."""
    from icd_engine import Engine

    export_bundle(read_bundle(small_bundle), tmp_path / "out", layout="openvino", precision="bf16")
    exported = read_manifest(tmp_path / "out")
    assert exported is not None and exported.precision == "bf16"
    core = openvino.Core()
    for graph in exported.graphs.values():
        assert graph.data is not None and graph.error is not None
        model = core.read_model(tmp_path / "out" / graph.file, tmp_path / "out" / graph.data)
        wide = [
            node.get_friendly_name()
            for node in model.get_ops()
            if node.get_type_name() == "Constant"
            and node.get_element_type().to_string() in ("f32", "f16")
            and node.get_byte_size() > 4096
        ]
        assert not wide
    with pytest.raises(RunnerError, match="exported in bfloat16 and cannot run in 'float32'"):
        Engine.from_pretrained(tmp_path / "out", dtype="float32")


def test_other_runners_are_refused(exported_for_openvino: Path):
    from icd_engine import Engine

    for runner in ("onnx", "eager"):
        with pytest.raises(RunnerError, match="OpenVINO"):
            Engine.from_pretrained(exported_for_openvino, runner=runner)


def test_the_command_says_what_it_wrote(exported_for_openvino, capsys):
    from icd_engine.cli.report import describe

    told = dict(describe(read_bundle(exported_for_openvino)))
    assert told["exported"] == "fp32, for OpenVINO"
    assert told["decode_hop"].startswith("unet/decode_hop.xml, differs from torch by")
