"""What is exported, before it is ONNX: ports are as promised at every size, and every form of a hop
is the same hop."""

import pytest
import torch

from export.graphs import GraphSpec, hop_graphs, loop_graphs, pair_graph, standard_graphs
from export.networks import ExportNetworks
from icd_engine.bundles.bundle import read_bundle
from icd_engine.runners.nested import leaves

NAMES = ["text_encoder", "vae_encoder", "vae_decoder", "unet_forward", "unet"]
NAMES += ["encode_hop", "decode_hop", "further_hop", "encode", "decode", "decode_pairs"]


@pytest.fixture(scope="module")
def graphs(small_bundle) -> dict[str, GraphSpec]:
    networks = ExportNetworks.load(read_bundle(small_bundle), "fp32")
    made = (
        standard_graphs(networks)
        + hop_graphs(networks)
        + loop_graphs(networks)
        + [pair_graph(networks)]
    )
    return {graph.name: graph for graph in made}


@pytest.mark.parametrize("name", NAMES)
def test_outputs_have_the_promised_axes(graphs, name):
    assert list(graphs) == NAMES
    graph = graphs[name]
    for sizes in graph.sizes:
        for port, value in graph.run(graph.example(sizes)).items():
            axes = graph.outputs[port].axes
            assert (
                tuple(sizes[axis] if isinstance(axis, str) else axis for axis in axes)
                == value.shape
            )
            assert value.dtype == graph.outputs[port].dtype


def test_half_precision_keeps_latents_and_vae_in_float32(small_bundle):
    networks = ExportNetworks.load(read_bundle(small_bundle), "fp16")
    decode = hop_graphs(networks)[1]
    out = decode.run(decode.example(decode.sizes[0]))
    assert out["next_latents"].dtype == out["next_word_maps"].dtype == torch.float32
    assert out["kept_0"].dtype == networks.unet.conv_in.weight.dtype == torch.float16
    assert networks.vae.decoder.conv_in.weight.dtype == torch.float32


def at(inputs: dict, k: int, like: GraphSpec) -> dict:
    """The inputs of hop k of a loop."""
    return {
        name: inputs[name][k] if inputs[name].ndim > len(port.axes) else inputs[name]
        for name, port in like.inputs.items()
    }


@pytest.mark.parametrize(("loop", "hop"), [("encode", "encode_hop"), ("decode", "decode_hop")])
def test_a_loop_is_its_hops(graphs, loop, hop):
    whole, one = graphs[loop], graphs[hop]
    inputs = whole.example(whole.sizes[0])
    state = {name: inputs[name] for name in ("latents", "word_maps") if name in inputs}
    masks = []
    passed = []
    for k in range(len(inputs["hop_a"])):
        out = one.run(at(inputs, k, one) | state)
        state = {name: out[f"next_{name}"] for name in state}
        masks.append(out.get("mask"))
        passed.append(state["latents"])
    result = whole.run(inputs)
    assert torch.equal(result["final_latents"], state["latents"])
    assert loop == "decode" or torch.equal(result["trajectory"], torch.stack(passed))
    assert "masks" not in result or torch.equal(result["masks"], torch.stack(masks))


def test_pairs_are_rows(graphs):
    pairs, rows = graphs["decode_pairs"], graphs["decode_hop"]
    inputs = pairs.example(pairs.sizes[0])
    out = pairs.run(inputs)
    both = {"latents", "hop_a", "hop_b", "timestep", "timestep_cond", "encoder_hidden_states"}
    both |= {"boundary", "anchor"}
    flat = {
        name: torch.cat([value[:, 0], value[:, 1]]) if name in both else value
        for name, value in inputs.items()
    }
    flat |= {"share_self": inputs["share_self"][:, 0], "use_blend": inputs["use_blend"][:, 0]}
    flat |= {"word_maps": inputs["word_maps"].transpose(0, 1), "source_row": torch.arange(3)}
    expected = rows.run(flat)
    assert torch.equal(
        torch.cat([out["next_latents"][:, 0], out["next_latents"][:, 1]]), expected["next_latents"]
    )
    assert torch.equal(out["next_word_maps"].transpose(0, 1), expected["next_word_maps"])
    assert torch.equal(out["mask"], expected["mask"])


def test_a_further_hop_is_the_hop_of_its_targets(graphs):
    first, further = graphs["decode_hop"], graphs["further_hop"]
    inputs = first.example(first.sizes[0])
    out = first.run(inputs)
    sources = first.sizes[0]["sources"]
    targets = {"latents", "hop_a", "hop_b", "timestep", "timestep_cond", "anchor"}
    alone = {name: value[sources:] if name in targets else value for name, value in inputs.items()}
    alone |= {name: value for name, value in out.items() if name.startswith("kept_")}
    alone |= {"source_latents": out["next_latents"][:sources], "residual": out["residual"]}
    again = further.run(alone)
    assert (again["next_latents"] - out["next_latents"][sources:]).abs().max() <= 1e-5
    assert (again["next_word_maps"] - out["next_word_maps"]).abs().max() <= 1e-6
    assert torch.equal(again["mask"], out["mask"])


@pytest.mark.parametrize("name", NAMES)
def test_ports_are_in_the_order_of_the_arguments(graphs, name):
    """Exporters know values by their place, and are given the ports' names for them."""
    graph = graphs[name]
    inputs = graph.example(graph.sizes[0])
    places = [id(value) for value in leaves(graph.arguments(inputs))]
    assert places == [id(value) for value in inputs.values()]
