"""One graph for hops in both directions: the decode network, and with an input the low-rank updates that
make the encode network of it.

Two networks are two downloads and twice the memory of a device. The updates are added as the graph runs:
as initializers they would be folded into a second network.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from export.graphs import GraphSpec
from export.modules import DecodeHop, Ports
from export.networks import ExportNetworks
from export.ports import Port
from icd_engine.bundles.files import read_weights
from icd_engine.networks.unet import UNet

HOP = "hop"
ENCODES = "encodes"  # 1: a hop of the encode network, 0: one of the decode network


class _Switch:
    """How much of the updates is on while a pass is traced or runs."""

    def __init__(self) -> None:
        self.share: Tensor | float = 0.0


class _SwitchedUpdate(nn.Module):
    """W + share (up @ down)."""

    def __init__(self, down: Tensor, up: Tensor, switch: _Switch):
        super().__init__()
        self.register_buffer("down", down.flatten(1))
        self.register_buffer("up", up.flatten(1))
        self._switch = switch

    def forward(self, weight: Tensor) -> Tensor:
        assert isinstance(self.up, Tensor) and isinstance(self.down, Tensor)
        return weight + self._switch.share * (self.up @ self.down).reshape(weight.shape)


class SwitchedHop(DecodeHop):
    """A decode hop with one more input: `encodes` [1], 0 or 1. An encode hop has the picture as a source
    row that is not anchored, and a target row that nobody looks at."""

    @staticmethod
    def arguments(ports: Ports) -> dict[str, Any]:
        own = {name: value for name, value in ports.items() if name != ENCODES}
        return DecodeHop.arguments(own) | {ENCODES: ports[ENCODES]}

    def __init__(self, unet: UNet, switch: _Switch):
        super().__init__(unet)
        self._switch = switch

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, row: list[Tensor], edit: list[Tensor], held: list[Tensor], encodes: Tensor
    ) -> tuple[Tensor, ...]:
        self._switch.share = encodes
        return super().forward(row, edit, held)


def switched_hop(networks: ExportNetworks, decode: GraphSpec) -> GraphSpec:
    """The graph `hop` in place of encode_hop and decode_hop; decode: that of decode hops. The decode
    network of `networks` takes the updates and is good for nothing else afterwards."""
    path = networks.bundle.difference
    assert path is not None  # asked for bundles of LoRA files only
    switch = _Switch()
    unet = networks.unet
    modules = dict(unet.named_modules())
    updates = read_weights(path)
    for name in dict.fromkeys(key.rpartition(".")[0] for key in updates):
        module = modules[name]
        update = _SwitchedUpdate(
            updates[f"{name}.down"].float(), updates[f"{name}.up"].float(), switch
        )
        parametrize.register_parametrization(module, "weight", update, unsafe=True)
    unet.requires_grad_(False)
    hop = SwitchedHop(unet, switch)
    inputs = decode.inputs | {ENCODES: Port((1,), torch.float32, top=1.0)}
    return replace(decode, name=HOP, file=f"unet/{HOP}.onnx", module=hop, inputs=inputs)
