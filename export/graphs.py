"""The list of ONNX files an export writes: for each its module, and its ports with named axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from export.modules import (
    DecodeHop,
    DecodeLoop,
    DecodePairs,
    EncodeHop,
    EncodeLoop,
    Noise,
    Pictures,
    Posterior,
    TextFeatures,
)
from export.networks import Networks
from export.ports import Port, Sizes, each_hop, edit_ports, edit_sizes, latents_port, row_ports

DATA = "model.onnx_data"


@dataclass(frozen=True)
class Graph:
    """One ONNX file: `file` relative to the folder, ports in the module's order, sizes to export and check it at."""

    name: str
    file: str
    module: nn.Module
    inputs: dict[str, Port]
    outputs: dict[str, Port]
    sizes: tuple[Sizes, ...]
    lists: dict[str, list[str]] = field(default_factory=dict)  # arguments that are lists of ports

    def moved(self, file: str) -> Graph:
        """The same graph in another file."""
        return replace(self, file=file)

    def example(self, sizes: Sizes, seed: int = 0) -> dict[str, Tensor]:
        """Random inputs by port."""
        generator = torch.Generator().manual_seed(seed)
        return {name: port.example(sizes, generator) for name, port in self.inputs.items()}

    def arguments(self, by_port: Mapping[str, Any]) -> dict[str, Any]:
        """Values by port -> arguments of the module."""
        listed = {name for names in self.lists.values() for name in names}
        plain = {name: value for name, value in by_port.items() if name not in listed}
        return plain | {argument: [by_port[name] for name in names] for argument, names in self.lists.items()}

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The module's outputs by port."""
        with torch.no_grad():
            out = self.module(**self.arguments(inputs))
        return dict(zip(self.outputs, [out] if isinstance(out, Tensor) else out, strict=True))


def standard_graphs(networks: Networks) -> list[Graph]:
    """The parts that stock tools load: names and axes as optimum has them."""
    bundle, dtype = networks.bundle, networks.precision
    latents, shrink = networks.unet.in_channels, networks.vae.downscale
    length = networks.tokens
    ids = Port(("batch_size", length), torch.int64, whole=bundle.config("text_encoder")["vocab_size"])
    features = Port(("batch_size", length, networks.text_width), dtype)
    picture, latent = ("batch_size", 3, "height", "width"), ("height_latent", "width_latent")
    moments = Port(("batch_size", 2 * latents, *latent))
    cases = tuple(
        {"batch_size": b, "height": h * shrink, "width": w * shrink, "height_latent": h, "width_latent": w}
        for b, h, w in ((2, 8, 12), (1, 10, 6))
    )
    graphs = [
        Graph(
            "text_encoder",
            "text_encoder/model.onnx",
            TextFeatures(networks.text_encoder),
            {"input_ids": ids},
            {"last_hidden_state": features},
            cases,
        ),
        Graph(
            "vae_encoder",
            "vae_encoder/model.onnx",
            Posterior(networks.vae),
            {"sample": Port(picture)},
            {"latent_parameters": moments},
            cases,
        ),
        Graph(
            "vae_decoder",
            "vae_decoder/model.onnx",
            Pictures(networks.vae),
            {"latent_sample": Port(("batch_size", latents, *latent))},
            {"sample": Port(picture)},
            cases,
        ),
    ]
    for part, unet in (("unet_forward", networks.unet_forward), ("unet", networks.unet)):
        noise = Port(("batch_size", latents, "height", "width"), dtype)
        inputs = {
            "sample": noise,
            "timestep": Port(("batch_size",), torch.int64, whole=1000),
            "encoder_hidden_states": features,
            "timestep_cond": Port(("batch_size", unet.guidance_channels or 0), dtype),
        }
        sizes = tuple({"batch_size": b, "height": h, "width": w} for b, h, w in ((2, 16, 24), (1, 24, 16)))
        graphs.append(Graph(part, f"{part}/model.onnx", Noise(unet), inputs, {"out_sample": noise}, sizes))
    return graphs


def hop_graphs(networks: Networks) -> list[Graph]:
    """The editing graphs: a hop up, a hop down, and a hop down of a further edit; weights are those of the standard
    UNets, beside which they lie."""
    encode, decode = EncodeHop(networks.unet_forward), DecodeHop(networks.unet)
    cases = tuple(edit_sizes(networks, *case) for case in ((2, 3, 16, 24), (1, 1, 16, 16), (1, 2, 24, 16)))
    rows, edit, latents = row_ports(networks, "rows"), edit_ports(networks), partial(latents_port, networks)
    kept = _kept_ports(decode, rows | edit, cases[0])
    after = {"next_latents": latents("rows"), "next_word_maps": edit["word_maps"], "mask": edit["user_mask"]}
    targets = {name: port._replace(axes=("targets", *port.axes[1:])) for name, port in rows.items()}
    targets["encoder_hidden_states"] = rows["encoder_hidden_states"]
    further = targets | edit | {"source_latents": latents("sources")} | kept
    further_after = after | {"next_latents": latents("targets")}
    return [
        Graph("encode_hop", "unet_forward/encode_hop.onnx", encode, rows, {"next_latents": latents("rows")}, cases),
        Graph("decode_hop", "unet/decode_hop.onnx", decode, rows | edit, after | kept, cases),
        Graph("further_hop", "unet/further_hop.onnx", decode, further, further_after, cases, {"kept": list(kept)}),
    ]


def loop_graphs(networks: Networks) -> list[Graph]:
    """Encode and decode whole, all hops in one graph each."""
    bundle = networks.bundle
    encode, decode = EncodeHop(networks.unet_forward), DecodeHop(networks.unet)
    cases = tuple(edit_sizes(networks, *case) for case in ((2, 3, 16, 24), (1, 1, 16, 16)))
    rows, edit, latents = row_ports(networks, "rows"), edit_ports(networks), latents_port(networks, "rows")
    masks = Port((len(bundle.decode_times), *edit["user_mask"].axes))
    up, down = each_hop(rows, len(bundle.encode_times)), each_hop(rows | edit, len(bundle.decode_times))
    return [
        Graph("encode", "unet_forward/encode.onnx", EncodeLoop(encode), up, {"final_latents": latents}, cases),
        Graph(
            "decode",
            "unet/decode.onnx",
            DecodeLoop(decode),
            down,
            {"final_latents": latents, "masks": masks},
            cases,
        ),
    ]


def pair_graph(networks: Networks) -> Graph:
    """A decode hop whose every port is batch-first."""
    ports = row_ports(networks, "batch_size") | edit_ports(networks)
    del ports["source_row"]
    for name in ("latents", "hop_a", "hop_b", "timestep", "timestep_cond", "encoder_hidden_states"):
        ports[name] = ports[name]._replace(axes=("batch_size", 2, *ports[name].axes[1:]))
    for name in ("source_mix", "target_gain", "source_words", "target_words", "user_mask"):
        ports[name] = ports[name]._replace(axes=("batch_size", *ports[name].axes[1:]))
    for name in ("share_self", "use_blend"):
        ports[name] = Port(("batch_size", 1), torch.bool)
    ports["word_maps"] = Port(("batch_size", 2, *ports["word_maps"].axes[2:]), top=1.0)
    after = {"next_latents": ports["latents"], "next_word_maps": ports["word_maps"], "mask": ports["user_mask"]}
    cases = tuple(
        edit_sizes(networks, n, n, h, w) | {"batch_size": n} for n, h, w in ((3, 16, 24), (1, 16, 16), (2, 24, 16))
    )
    return Graph("decode_pairs", "unet/decode_pairs.onnx", DecodePairs(DecodeHop(networks.unet)), ports, after, cases)


def _kept_ports(decode: DecodeHop, inputs: dict[str, Port], sizes: Sizes) -> dict[str, Port]:
    """kept_0, kept_1, ...: [sources, heads, positions, head size], as one pass leaves them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        _, _, _, *kept = decode(**{name: port.example(sizes, generator) for name, port in inputs.items()})
    axis = {size: name for name, size in sizes.items() if name.startswith("positions_")}
    return {
        f"kept_{i}": Port(("sources", value.shape[1], axis[value.shape[2]], value.shape[3]), value.dtype)
        for i, value in enumerate(kept)
    }
