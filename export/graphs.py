"""The list of ONNX files an export writes: for each its module, and its ports with named axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from export.loops import DecodeLoop, DecodePairs, EncodeLoop
from export.modules import (
    DecodeHop,
    EncodeHop,
    Noise,
    PortModule,
    Posterior,
    TextFeatures,
    TextStates,
    VaePictures,
)
from export.networks import ExportNetworks
from export.ports import (
    Port,
    Sizes,
    added_ports,
    anchor_ports,
    each_hop,
    edit_ports,
    edit_sizes,
    latents_port,
    row_ports,
)


@dataclass(frozen=True)
class GraphSpec:
    """One ONNX file: `file` relative to the folder, ports in the module's order, sizes to export
    and check it at."""

    name: str
    file: str
    module: PortModule
    inputs: dict[str, Port]
    outputs: dict[str, Port]
    sizes: tuple[Sizes, ...]

    def moved(self, file: str) -> GraphSpec:
        """The same graph in another file."""
        return replace(self, file=file)

    def example(self, sizes: Sizes, seed: int = 0) -> dict[str, Tensor]:
        """Random inputs by port."""
        generator = torch.Generator().manual_seed(seed)
        return {name: port.example(sizes, generator) for name, port in self.inputs.items()}

    def arguments(self, by_port: Mapping[str, Any]) -> dict[str, Any]:
        """Values by port -> arguments of the module."""
        return self.module.arguments(by_port)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The module's outputs by port."""
        with torch.no_grad():
            out = self.module(**self.arguments(inputs))
        return dict(zip(self.outputs, [out] if isinstance(out, Tensor) else out, strict=True))


def standard_graphs(networks: ExportNetworks) -> list[GraphSpec]:
    """The parts that stock tools load: names and axes as optimum has them."""
    dtype = networks.precision
    latents = networks.unet.in_channels
    shrink = networks.vae.downscale
    features = Port(("batch_size", networks.tokens, networks.text_width), dtype)
    picture = ("batch_size", 3, "height", "width")
    latent = ("height_latent", "width_latent")
    moments = Port(("batch_size", 2 * latents, *latent))
    cases = tuple(
        {
            "batch_size": b,
            "height": h * shrink,
            "width": w * shrink,
            "height_latent": h,
            "width_latent": w,
        }
        for b, h, w in ((2, 8, 12), (1, 10, 6))
    )
    graphs = [
        *_text_graphs(networks, cases),
        GraphSpec(
            "vae_encoder",
            "vae_encoder/model.onnx",
            Posterior(networks.vae),
            {"sample": Port(picture)},
            {"latent_parameters": moments},
            cases,
        ),
        GraphSpec(
            "vae_decoder",
            "vae_decoder/model.onnx",
            VaePictures(networks.vae),
            {"latent_sample": Port(("batch_size", latents, *latent))},
            {"sample": Port(picture)},
            cases,
        ),
    ]
    for part, unet in (("unet_forward", networks.unet_forward), ("unet", networks.unet)):
        noise = Port(("batch_size", latents, "height", "width"), dtype)
        inputs = {
            "sample": noise,
            # A scalar, as optimum declares it; one value or one a row is taken as well: see `Noise`
            "timestep": Port((), torch.int64, whole=networks.bundle.train_steps),
            "encoder_hidden_states": features,
            "timestep_cond": Port(("batch_size", unet.guidance_channels or 0), dtype),
            **added_ports(networks, "batch_size"),
        }
        sizes = tuple(
            {"batch_size": b, "height": h, "width": w} for b, h, w in ((2, 16, 24), (1, 24, 16))
        )
        graphs.append(
            GraphSpec(part, f"{part}/model.onnx", Noise(unet), inputs, {"out_sample": noise}, sizes)
        )
    return graphs


def _text_graphs(networks: ExportNetworks, cases: tuple[Sizes, ...]) -> list[GraphSpec]:
    """One text encoder with its last hidden state, or SDXL's two with all of them and the second
    one's pooled."""
    encoders = networks.text_encoders()
    graphs = []
    for part, encoder in encoders.items():
        config = networks.bundle.config(part)
        ids = Port(("batch_size", networks.tokens), torch.int64, whole=config["vocab_size"])
        state = Port(("batch_size", networks.tokens, config["hidden_size"]), networks.precision)
        module = TextFeatures(encoder)
        outputs = {"last_hidden_state": state}
        if len(encoders) > 1:
            module = TextStates(encoder)
            outputs |= {f"hidden_states.{i}": state for i in range(config["num_hidden_layers"] + 1)}
        if part == "text_encoder_2":
            outputs = {
                "text_embeds": Port(("batch_size", config["projection_dim"]), networks.precision)
            } | outputs
        graphs.append(
            GraphSpec(part, f"{part}/model.onnx", module, {"input_ids": ids}, outputs, cases)
        )
    return graphs


def hop_graphs(networks: ExportNetworks) -> list[GraphSpec]:
    """The editing graphs: a hop up, a hop down, and a hop down of a re-edit; weights are those
    of the standard UNets, beside which they lie."""
    encode = EncodeHop(networks.unet_forward)
    decode = DecodeHop(networks.unet)
    cases = tuple(
        edit_sizes(networks, *case) for case in ((2, 3, 16, 24), (1, 1, 16, 16), (1, 2, 24, 16))
    )
    rows = row_ports(networks, "rows")
    edit = edit_ports(networks)
    latents = partial(latents_port, networks)
    held = anchor_ports(networks, "rows")
    first = rows | edit | held
    kept = _kept_ports(decode, first, cases[0])
    after = {
        "next_latents": latents("rows"),
        "next_word_maps": edit["word_maps"],
        "mask": edit["user_mask"],
    }
    targets = {name: port._replace(axes=("targets", *port.axes[1:])) for name, port in rows.items()}
    targets["encoder_hidden_states"] = rows["encoder_hidden_states"]
    share = held["anchor"]._replace(axes=("targets",))
    further_held = {"residual": latents("sources"), "anchor": share}
    further = targets | edit | further_held | {"source_latents": latents("sources")} | kept
    further_after = after | {"next_latents": latents("targets")}
    return [
        GraphSpec(
            "encode_hop",
            "unet_forward/encode_hop.onnx",
            encode,
            rows,
            {"next_latents": latents("rows")},
            cases,
        ),
        GraphSpec(
            "decode_hop",
            "unet/decode_hop.onnx",
            decode,
            first,
            after | {"residual": latents("sources")} | kept,
            cases,
        ),
        GraphSpec("further_hop", "unet/further_hop.onnx", decode, further, further_after, cases),
    ]


def loop_graphs(networks: ExportNetworks) -> list[GraphSpec]:
    """Encode and decode whole, all hops in one graph each."""
    bundle = networks.bundle
    encode = EncodeHop(networks.unet_forward)
    decode = DecodeHop(networks.unet)
    cases = tuple(edit_sizes(networks, *case) for case in ((2, 3, 16, 24), (1, 1, 16, 16)))
    rows = row_ports(networks, "rows")
    edit = edit_ports(networks)
    latents = latents_port(networks, "rows")
    masks = Port((len(bundle.decode_times), *edit["user_mask"].axes))
    up = each_hop(rows, len(bundle.encode_times))
    down = each_hop(rows | edit | anchor_ports(networks, "rows"), len(bundle.decode_times))
    return [
        GraphSpec(
            "encode",
            "unet_forward/encode.onnx",
            EncodeLoop(encode),
            up,
            {
                "final_latents": latents,
                "trajectory": Port((len(bundle.encode_times), *latents.axes)),
            },
            cases,
        ),
        GraphSpec(
            "decode",
            "unet/decode.onnx",
            DecodeLoop(decode),
            down,
            {"final_latents": latents, "masks": masks},
            cases,
        ),
    ]


def pair_graph(networks: ExportNetworks) -> GraphSpec:
    """A decode hop whose every port is batch-first."""
    of_row = row_ports(networks, "batch_size")
    held = anchor_ports(networks, "batch_size")
    ports = of_row | edit_ports(networks) | held
    del ports["source_row"]
    for name in of_row | held:
        ports[name] = ports[name]._replace(axes=("batch_size", 2, *ports[name].axes[1:]))
    for name in ("source_mix", "target_gain", "source_words", "target_words", "user_mask"):
        ports[name] = ports[name]._replace(axes=("batch_size", *ports[name].axes[1:]))
    for name in ("share_self", "use_blend"):
        ports[name] = Port(("batch_size", 1), torch.bool)
    ports["word_maps"] = Port(("batch_size", 2, *ports["word_maps"].axes[2:]), top=1.0)
    after = {
        "next_latents": ports["latents"],
        "next_word_maps": ports["word_maps"],
        "mask": ports["user_mask"],
    }
    cases = tuple(
        edit_sizes(networks, n, n, h, w) | {"batch_size": n}
        for n, h, w in ((3, 16, 24), (1, 16, 16), (2, 24, 16))
    )
    return GraphSpec(
        "decode_pairs",
        "unet/decode_pairs.onnx",
        DecodePairs(DecodeHop(networks.unet)),
        ports,
        after,
        cases,
    )


def _kept_ports(decode: DecodeHop, inputs: dict[str, Port], sizes: Sizes) -> dict[str, Port]:
    """kept_0, kept_1, ...: [sources, heads, positions, head size], as one pass leaves them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        examples = {name: port.example(sizes, generator) for name, port in inputs.items()}
        _, _, _, _, *kept = decode(**decode.arguments(examples))
    dtype = inputs["encoder_hidden_states"].dtype
    axis = {size: name for name, size in sizes.items() if name.startswith("positions_")}
    return {
        f"kept_{i}": Port(("sources", value.shape[1], axis[value.shape[2]], value.shape[3]), dtype)
        for i, value in enumerate(kept)
    }
