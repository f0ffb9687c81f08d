"""The levels of the UNet, one for each size of its maps: residual blocks and transformers."""

from __future__ import annotations

from torch import Tensor, nn

from csrc_triton import fused
from icd_engine.networks.attention import PassState, SpatialTransformer
from icd_engine.networks.blocks import ResidualBlock


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

    def layer(self, i: int, x: Tensor, skip: Tensor | None, state: PassState) -> Tensor:
        if not hasattr(self, "attentions"):
            return self.resnets[i](x, skip, state.shifts.pop())
        how = (self.shares_self, self.feeds_blend)
        return both(self.resnets[i], self.attentions[i], x, skip, state, *how)


def both(
    residual: nn.Module,
    transformer: nn.Module,
    x: Tensor,
    skip: Tensor | None,
    state: PassState,
    shares_self: bool,
    feeds_blend: bool,
) -> Tensor:
    """A residual block, then a transformer; where operations are fused, its norm adds the block's
    two branches."""
    assert isinstance(residual, ResidualBlock)
    assert isinstance(transformer, SpatialTransformer)
    if not fused(x):
        x = residual(x, skip, state.shifts.pop())
        return transformer(x, state, shares_self, feeds_blend)
    parts = residual.parts(x, skip, state.shifts.pop())
    return transformer.of_sum(parts, state, shares_self, feeds_blend)


class DownLevel(UNetLevel):
    """A level of the way down; keeps every output for the way up."""

    downsamplers: nn.ModuleList  # not on the lowest level

    def forward(self, x: Tensor, state: PassState, skips: list[Tensor]) -> Tensor:
        for i in range(len(self.resnets)):
            x = self.layer(i, x, None, state)
            skips.append(x)
        if hasattr(self, "downsamplers"):
            x = self.downsamplers[0](x)
            skips.append(x)
        return x


class UpLevel(UNetLevel):
    """A level of the way up; takes the kept outputs back, last first."""

    upsamplers: nn.ModuleList  # not on the highest level

    def forward(self, x: Tensor, state: PassState, skips: list[Tensor]) -> Tensor:
        for i in range(len(self.resnets)):
            x = self.layer(i, x, skips.pop(), state)
        return self.upsamplers[0](x) if hasattr(self, "upsamplers") else x


class MidLevel(nn.Module):
    """Residual block, transformer, residual block at the smallest size."""

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

    def forward(self, x: Tensor, state: PassState) -> Tensor:
        x = both(self.resnets[0], self.attentions[0], x, None, state, self.shares_self, False)
        return self.resnets[1](x, None, state.shifts.pop())


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
