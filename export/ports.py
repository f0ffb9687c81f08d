"""Inputs and outputs of graphs: their axes, types, and random values of them; those that every hop
has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from export.networks import ExportNetworks
from icd_engine.runners.contract import TIME_IDS

Sizes = Mapping[str, int]
EACH_HOP = (
    "boundary",
    "hop_a",
    "hop_b",
    "timestep",
    "timestep_cond",
    "source_mix",
    "target_gain",
    "share_self",
    "user_mask",
)


class Port(NamedTuple):
    """An input or output: axes by name where they vary, by size where they do not. whole: values in
    0..whole - 1."""

    axes: tuple[str | int, ...]
    dtype: torch.dtype = torch.float32
    whole: str | int = 2
    top: float | None = None  # floats in 0..top; None: of normal distribution

    def example(self, sizes: Sizes, generator: torch.Generator) -> Tensor:
        """Random values of these sizes."""
        shape = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in self.axes)
        if not self.dtype.is_floating_point:
            whole = sizes[self.whole] if isinstance(self.whole, str) else self.whole
            return torch.randint(0, whole, shape, generator=generator).to(self.dtype)
        if self.top is None:
            return torch.randn(shape, generator=generator).to(self.dtype)
        return (torch.rand(shape, generator=generator) * self.top).to(self.dtype)


def edit_sizes(
    networks: ExportNetworks, sources: int, targets: int, height: int, width: int
) -> dict[str, int]:
    """Every axis of the editing graphs for latents of height x width."""
    shrink = networks.bundle.blend_downscale
    levels = len(networks.unet.down_blocks)
    positions = {f"positions_{2**i}": (height >> i) * (width >> i) for i in range(levels)}
    counts = {
        "sources": sources,
        "targets": targets,
        "rows": sources + targets,
        "height": height,
        "width": width,
    }
    return counts | positions | {"map_height": height // shrink, "map_width": width // shrink}


def latents_port(networks: ExportNetworks, rows: str) -> Port:
    return Port((rows, networks.unet.in_channels, "height", "width"))


def row_ports(networks: ExportNetworks, rows: str) -> dict[str, Port]:
    """What every hop takes for each row."""
    prompt = (rows, networks.tokens, networks.text_width)
    return {
        "latents": latents_port(networks, rows),
        "hop_a": Port((rows,)),
        "hop_b": Port((rows,)),
        "timestep": Port((rows,), torch.int64, whole=networks.bundle.train_steps),
        "timestep_cond": Port((rows, networks.unet.guidance_channels or 0)),
        "encoder_hidden_states": Port(prompt, networks.precision),
        **added_ports(networks, rows),
    }


def added_ports(networks: ExportNetworks, rows: str) -> dict[str, Port]:
    """SDXL's further conditions of each row; none for other families."""
    if not networks.unet.addition_channels:
        return {}
    pooled = networks.bundle.config("text_encoder_2")["projection_dim"]
    sizes = Port((rows, len(TIME_IDS)), networks.precision, top=1024.0)
    return {"text_embeds": Port((rows, pooled), networks.precision), "time_ids": sizes}


def edit_ports(networks: ExportNetworks) -> dict[str, Port]:
    """What a decode hop takes for each target."""
    tokens = networks.tokens
    return {
        "source_row": Port(("targets",), torch.int64, whole="sources"),
        # Columns of about 1, as in plans
        "source_mix": Port(("targets", tokens, tokens), top=2 / tokens),
        "target_gain": Port(("targets", tokens), top=1.0),
        "share_self": Port(("targets",), torch.bool),
        "source_words": Port(("targets", tokens), top=1.0),
        "target_words": Port(("targets", tokens), top=1.0),
        "use_blend": Port(("targets",), torch.bool),
        "word_maps": Port((2, "targets", "map_height", "map_width"), top=1.0),
        "user_mask": Port(("targets", "height", "width"), top=1.0),
    }


def anchor_ports(networks: ExportNetworks, rows: str) -> dict[str, Port]:
    """What holds a decode hop to the encode trajectory: a source row's latents on it and whether it
    is put there (anchor > 0); the share of its source's residual that a target row takes."""
    return {"boundary": latents_port(networks, rows), "anchor": Port((rows,), top=1.0)}


def each_hop(ports: dict[str, Port], hops: int) -> dict[str, Port]:
    """The ports with an axis of all hops in front where they change from hop to hop."""
    return {
        name: port._replace(axes=(hops, *port.axes)) if name in EACH_HOP else port
        for name, port in ports.items()
    }
