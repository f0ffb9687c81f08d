"""One network for both directions: with its input on it is the encode network, off the decode one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from export.graphs import GraphSpec, hop_graphs
from export.networks import ExportNetworks
from export.onnx_files import save, to_onnx
from export.switched import ENCODES, switched_hop
from export.weights_file import WeightsFile
from icd_engine.bundles.bundle import Bundle
from icd_engine.bundles.convert import convert

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "sd15"


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Bundle:
    """A model of LoRA files, as published, and small."""
    loras = [GOLDEN / f"iCD-SD15-{role}.safetensors" for role in ("forward", "reverse")]
    out = tmp_path_factory.mktemp("published") / "bundle"
    return convert(GOLDEN / "base", GOLDEN / "sd15_cfg_distill.pt", *loras, out)


@pytest.fixture(scope="module")
def graphs(published) -> dict[str, GraphSpec]:
    """encode_hop and decode_hop of two networks, and hop, of one."""
    whole = {one.name: one for one in hop_graphs(ExportNetworks.load(published, "fp32"))}
    networks = ExportNetworks.load(published, "fp32")
    decode = next(one for one in hop_graphs(networks) if one.name == "decode_hop")
    return whole | {"hop": switched_hop(networks, decode)}


def assert_close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    """Weights differ in their last bit."""
    assert float((got - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())


def test_off_it_is_the_decode_network(graphs):
    inputs = graphs["decode_hop"].example(graphs["decode_hop"].sizes[0])
    inputs["use_blend"] = torch.zeros_like(inputs["use_blend"])  # masks flip by roundings
    wanted = graphs["decode_hop"].run(inputs)
    got = graphs["hop"].run(inputs | {ENCODES: torch.zeros(1)})
    for name in ("next_latents", "residual"):
        assert_close(got[name], wanted[name])


def test_on_its_source_rows_are_the_encode_networks(graphs):
    """Not held to a trajectory, beside targets that are no concern of theirs."""
    inputs = graphs["hop"].example(graphs["hop"].sizes[0])
    inputs["anchor"] = torch.zeros_like(inputs["anchor"])
    got = graphs["hop"].run(inputs | {ENCODES: torch.ones(1)})["next_latents"][:2]
    rows = {name: inputs[name] for name in graphs["encode_hop"].inputs}
    wanted = graphs["encode_hop"].run(rows)["next_latents"][:2]
    decoded = graphs["hop"].run(inputs | {ENCODES: torch.zeros(1)})["next_latents"][:2]
    assert_close(got, wanted)
    assert float((decoded - wanted).abs().max()) > 0.01 * float(wanted.abs().max())


@pytest.mark.long
def test_its_graph_has_the_updates_beside_one_networks_weights(graphs, tmp_path):
    from export.check import check_onnx

    graph = graphs["hop"]
    path = tmp_path / "hop.onnx"
    save(to_onnx(graph, 20), path, WeightsFile(tmp_path / "hop.onnx_data"))
    assert check_onnx(graph, path) <= 1e-3
    tensors = graph.module.state_dict().values()
    weights = sum(value.numel() * value.element_size() for value in tensors)
    assert (tmp_path / "hop.onnx_data").stat().st_size < 1.5 * weights
