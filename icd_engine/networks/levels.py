"""The levels of the UNet, one for each size of its maps: residual blocks and transformers."""

from __future__ import annotations

from torch import Tensor, nn

from icd_engine.networks.attention import PassState, SpatialTransformer
from icd_engine.networks.blocks import ResidualBlock
from icd_engine.networks.sums import Map, taken


class UNetLevel(nn.Module):
    """One size of the UNet: residual blocks, each followed by a transformer where the level has
    text attention."""

    def __init__(
        self,
        widths: list[tuple[int, int]],
        *,
        transformer: dict | None,
        time_channels: int,
        groups: int,
        eps: float,
    ):
        super().__init__()
        self.resnets = nn.ModuleList(
            ResidualBlock(a, b, groups=groups, eps=eps, time_channels=time_channels)
            for a, b in widths
        )
        if transformer:
            self.attentions = nn.ModuleList(
                SpatialTransformer(b, groups=groups, **transformer) for _, b in widths
            )
        self.shares_self = False
        self.feeds_blend = False

    def layer(self, i: int, x: Map, skip: Tensor | None, state: PassState) -> tuple[Tensor, Map]:
        """x added up, and what a residual block and its transformer make of it."""
        entered, made = self.resnets[i](x, skip, state.shifts.pop())
        if hasattr(self, "attentions"):
            made = self.attentions[i](made, state, self.shares_self, self.feeds_blend)
        return entered, made


class DownLevel(UNetLevel):
    """A level of the way down; keeps what enters its parts, each the output of one before, for the way
    up: there sums are taken."""

    downsamplers: nn.ModuleList  # not on the lowest level

    def forward(self, x: Map, state: PassState, skips: list[Tensor]) -> Map:
        for i in range(len(self.resnets)):
            entered, x = self.layer(i, x, None, state)
            skips.append(entered)
        if hasattr(self, "downsamplers"):
            skips.append(taken(x))
            x = self.downsamplers[0](skips[-1])
        return x


class UpLevel(UNetLevel):
    """A level of the way up; takes the kept outputs back, last first."""

    upsamplers: nn.ModuleList  # not on the highest level

    def forward(self, x: Map, state: PassState, skips: list[Tensor]) -> Map:
        for i in range(len(self.resnets)):
            _, x = self.layer(i, x, skips.pop(), state)
        return self.upsamplers[0](taken(x)) if hasattr(self, "upsamplers") else x


class MidLevel(nn.Module):
    """Residual block, transformer, residual block at the smallest size; keeps what enters, too."""

    def __init__(
        self, channels: int, *, transformer: dict, time_channels: int, groups: int, eps: float
    ):
        super().__init__()
        self.resnets = nn.ModuleList(
            ResidualBlock(channels, channels, groups=groups, eps=eps, time_channels=time_channels)
            for _ in range(2)
        )
        self.attentions = nn.ModuleList(
            [SpatialTransformer(channels, groups=groups, **transformer)]
        )
        self.shares_self = False

    def forward(self, x: Map, state: PassState, skips: list[Tensor]) -> Map:
        entered, x = self.resnets[0](x, None, state.shifts.pop())
        skips.append(entered)
        x = self.attentions[0](x, state, self.shares_self, False)
        return self.resnets[1](x, None, state.shifts.pop())[1]


def per_level(value: int | list, levels: int) -> list:
    return list(value) if isinstance(value, list | tuple) else [value] * levels


def down_channels(widths: list[int], layers: int) -> list[list[tuple[int, int]]]:
    """(in, out) of every residual block of every level on the way down."""
    entries = [widths[0], *widths[:-1]]
    return [
        [(entry, width)] + [(width, width)] * (layers - 1)
        for entry, width in zip(entries, widths, strict=True)
    ]


def up_channels(widths: list[int], layers: int) -> list[list[tuple[int, int]]]:
    """The same on the way up, lowest level first: each block also takes one output kept on the way
    down."""
    kept = [widths[0]]
    for level, width in enumerate(widths):
        kept += [width] * (layers + (level + 1 < len(widths)))
    channels = widths[-1]
    result = []
    for width in reversed(widths):
        pairs = []
        for _ in range(layers + 1):
            pairs.append((channels + kept.pop(), width))
            channels = width
        result.append(pairs)
    return result
