"""The list of ONNX files an export writes: for each its module, and its ports with named axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

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
from icd_engine.bundles.bundle import Bundle
from icd_engine.editing.words import PromptTokenizer
from icd_engine.loading import load_network
from icd_engine.networks.text_encoder import TextEncoder
from icd_engine.networks.unet import UNet
from icd_engine.networks.vae import VAE

DATA = "model.onnx_data"
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}
Sizes = Mapping[str, int]


class Port(NamedTuple):
    """An input or output: axes by name where they vary, by size where they do not. whole: values in 0..whole - 1."""

    axes: tuple[str | int, ...]
    dtype: torch.dtype = torch.float32
    whole: str | int = 2
    unit: bool = False  # floats in 0..1

    def example(self, sizes: Sizes, generator: torch.Generator) -> Tensor:
        """Random values of these sizes."""
        shape = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in self.axes)
        if not self.dtype.is_floating_point:
            whole = sizes[self.whole] if isinstance(self.whole, str) else self.whole
            return torch.randint(0, whole, shape, generator=generator).to(self.dtype)
        values = torch.rand if self.unit else torch.randn
        return values(shape, generator=generator).to(self.dtype)


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


class Networks(NamedTuple):
    """A bundle's networks on the CPU, the UNets and the text encoder in `precision`."""

    bundle: Bundle
    precision: torch.dtype
    text_encoder: TextEncoder
    vae: VAE
    unet_forward: UNet
    unet: UNet

    @classmethod
    def load(cls, bundle: Bundle, precision: str) -> Networks:
        """Raises BundleError."""
        cpu, dtype = torch.device("cpu"), PRECISIONS[precision]
        levels = {"blend_downscale": bundle.blend_downscale, "share_downscale": bundle.share_downscale}
        unet = partial(UNet, **levels)
        return cls(
            bundle,
            dtype,
            load_network(bundle, "text_encoder", TextEncoder, cpu, dtype),
            # Stable Diffusion's VAE overflows in half precision.
            load_network(bundle, "vae", VAE, cpu, torch.float32),
            load_network(bundle, "unet_forward", unet, cpu, dtype),
            load_network(bundle, "unet", unet, cpu, dtype),
        )


def standard_graphs(networks: Networks) -> list[Graph]:
    """The parts that stock tools load: names and axes as optimum has them."""
    bundle, dtype = networks.bundle, networks.precision
    latents, shrink = networks.unet.in_channels, networks.vae.downscale
    text = bundle.config("text_encoder")
    length = _tokens(bundle)
    ids = Port(("batch_size", length), torch.int64, whole=text["vocab_size"])
    features = Port(("batch_size", length, text["hidden_size"]), dtype)
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
    rows, edit, latents = _row_ports(networks, "rows"), _edit_ports(networks), partial(_latents, networks)
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
    rows, edit, latents = _row_ports(networks, "rows"), _edit_ports(networks), _latents(networks, "rows")
    masks = Port((len(bundle.decode_times), *edit["user_mask"].axes))
    up, down = _each_hop(rows, len(bundle.encode_times)), _each_hop(rows | edit, len(bundle.decode_times))
    return [
        Graph("encode", "unet_forward/encode.onnx", EncodeLoop(encode), up, {"final_latents": latents}, cases),
        Graph(
            "decode", "unet/decode.onnx", DecodeLoop(decode), down, {"final_latents": latents, "masks": masks}, cases
        ),
    ]


def pair_graph(networks: Networks) -> Graph:
    """A decode hop whose every port is batch-first."""
    ports = _row_ports(networks, "batch_size") | _edit_ports(networks)
    del ports["source_row"]
    for name in ("latents", "hop_a", "hop_b", "timestep", "timestep_cond", "encoder_hidden_states"):
        ports[name] = ports[name]._replace(axes=("batch_size", 2, *ports[name].axes[1:]))
    for name in ("source_mix", "target_gain", "source_words", "target_words", "user_mask"):
        ports[name] = ports[name]._replace(axes=("batch_size", *ports[name].axes[1:]))
    for name in ("share_self", "use_blend"):
        ports[name] = Port(("batch_size", 1), torch.bool)
    ports["word_maps"] = Port(("batch_size", 2, *ports["word_maps"].axes[2:]), unit=True)
    after = {"next_latents": ports["latents"], "next_word_maps": ports["word_maps"], "mask": ports["user_mask"]}
    cases = tuple(
        edit_sizes(networks, n, n, h, w) | {"batch_size": n} for n, h, w in ((3, 16, 24), (1, 16, 16), (2, 24, 16))
    )
    return Graph("decode_pairs", "unet/decode_pairs.onnx", DecodePairs(DecodeHop(networks.unet)), ports, after, cases)


def edit_sizes(networks: Networks, sources: int, targets: int, height: int, width: int) -> dict[str, int]:
    """Every axis of the editing graphs for latents of height x width."""
    shrink = networks.bundle.blend_downscale
    levels = len(networks.unet.down_blocks)
    positions = {f"positions_{2**i}": (height >> i) * (width >> i) for i in range(levels)}
    counts = {"sources": sources, "targets": targets, "rows": sources + targets, "height": height, "width": width}
    return counts | positions | {"map_height": height // shrink, "map_width": width // shrink}


def _latents(networks: Networks, rows: str) -> Port:
    return Port((rows, networks.unet.in_channels, "height", "width"))


def _tokens(bundle: Bundle) -> int:
    """n of every prompt."""
    return PromptTokenizer.from_folder(bundle.path / "tokenizer").max_length


def _row_ports(networks: Networks, rows: str) -> dict[str, Port]:
    """What every hop takes for each row."""
    prompt = (rows, _tokens(networks.bundle), networks.bundle.config("text_encoder")["hidden_size"])
    return {
        "latents": _latents(networks, rows),
        "hop_a": Port((rows,)),
        "hop_b": Port((rows,)),
        "timestep": Port((rows,), torch.int64, whole=1000),
        "timestep_cond": Port((rows, networks.unet.guidance_channels or 0)),
        "encoder_hidden_states": Port(prompt, networks.precision),
    }


def _edit_ports(networks: Networks) -> dict[str, Port]:
    """What a decode hop takes for each target."""
    tokens = _tokens(networks.bundle)
    return {
        "source_row": Port(("targets",), torch.int64, whole="sources"),
        "source_mix": Port(("targets", tokens, tokens), unit=True),
        "target_gain": Port(("targets", tokens), unit=True),
        "share_self": Port(("targets",), torch.bool),
        "source_words": Port(("targets", tokens), unit=True),
        "target_words": Port(("targets", tokens), unit=True),
        "use_blend": Port(("targets",), torch.bool),
        "word_maps": Port((2, "targets", "map_height", "map_width"), unit=True),
        "user_mask": Port(("targets", "height", "width"), unit=True),
    }


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


def _each_hop(ports: dict[str, Port], hops: int) -> dict[str, Port]:
    """The ports with an axis of all hops in front where they change from hop to hop."""
    changing = ("hop_a", "hop_b", "timestep", "timestep_cond", "source_mix", "target_gain", "share_self")
    return {name: port._replace(axes=(hops, *port.axes)) if name in changing else port for name, port in ports.items()}
