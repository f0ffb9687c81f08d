"""Hops put together: all of a stage in one graph, and pairs of one source and one target."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from export.modules import (
    ADDED,
    ROW,
    DecodeHop,
    EncodeHop,
    HopAnchor,
    HopEdit,
    HopRow,
    PortModule,
    Ports,
    listed,
)


class EncodeLoop(PortModule):
    """All encode hops in one graph: latents at the end and after each hop. hop_a, hop_b, timestep
    and timestep_cond have an axis of K hops in front."""

    arguments = staticmethod(EncodeHop.arguments)

    def __init__(self, hop: EncodeHop):
        super().__init__()
        self.hop = hop

    def forward(self, row: list[Tensor]) -> tuple[Tensor, Tensor]:
        loop = HopRow.of(row)
        latents = loop.latents
        passed = []
        for k in range(len(loop.hop_a)):
            latents = self.hop.step(_at(loop, k, latents))
            passed.append(latents)
        return latents, torch.stack(passed)


class DecodeLoop(PortModule):
    """All decode hops in one graph: final latents and the masks of all K hops.

    What changes from hop to hop has an axis of K in front: hop_a, hop_b, timestep, timestep_cond,
    boundary, source_mix, target_gain, share_self, user_mask.
    """

    arguments = staticmethod(DecodeHop.arguments)

    def __init__(self, hop: DecodeHop):
        super().__init__()
        self.hop = hop

    def forward(
        self, row: list[Tensor], edit: list[Tensor], held: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        loop = HopRow.of(row)
        edits = HopEdit(*edit)
        boundaries, anchor = held
        latents = loop.latents
        maps = edits.word_maps
        masks = []
        for k in range(len(loop.hop_a)):
            step = edits._replace(
                source_mix=edits.source_mix[k],
                target_gain=edits.target_gain[k],
                share_self=edits.share_self[k],
                word_maps=maps,
                user_mask=edits.user_mask[k],
            )
            of_hop = HopAnchor(boundaries[k], anchor)
            latents, maps, mask, *_ = self.hop.step(_at(loop, k, latents), step, of_hop)
            masks.append(mask)
        return latents, torch.stack(masks)


def _at(loop: HopRow, k: int, latents: Tensor) -> HopRow:
    """What the rows take in hop k of a loop."""
    each = {
        name: getattr(loop, name)[k] for name in ("hop_a", "hop_b", "timestep", "timestep_cond")
    }
    return loop._replace(latents=latents, **each)


class DecodePairs(PortModule):
    """A decode hop of B pairs of one source and one target: every port batch-first, so that servers
    can batch requests.

    Source and target are the second axis (of 2) of what every row takes and of word_maps.
    """

    @staticmethod
    def arguments(ports: Ports) -> dict[str, Any]:
        return {
            "row": listed(ports, (*ROW, *ADDED)),
            "edit": listed(ports, HopEdit._fields[1:]),
            "held": listed(ports, HopAnchor._fields),
        }

    def __init__(self, hop: DecodeHop):
        super().__init__()
        self.hop = hop

    def forward(
        self, row: list[Tensor], edit: list[Tensor], held: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        pairs = row[0].shape[0]
        of_pair = HopEdit(torch.arange(pairs, device=row[0].device), *edit)
        of_pair = of_pair._replace(
            share_self=of_pair.share_self[:, 0],
            use_blend=of_pair.use_blend[:, 0],
            word_maps=of_pair.word_maps.transpose(0, 1),
        )
        rows, anchors = (
            [torch.cat([pair[:, 0], pair[:, 1]]) for pair in tensors] for tensors in (row, held)
        )
        x, maps, mask, *_ = self.hop.step(HopRow.of(rows), of_pair, HopAnchor(*anchors))
        return torch.stack([x[:pairs], x[pairs:]], dim=1), maps.transpose(0, 1), mask
