"""The blocks UNet and VAE share; parameter names and arithmetic are those of diffusers' modules."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csrc_triton import fused
from csrc_triton.add_product import add_product
from csrc_triton.geglu import geglu
from csrc_triton.group_norm_silu import add_group_norm, group_norm_silu
from icd_engine.networks.sums import Map, Sum, convolved


class GroupNorm(nn.GroupNorm):
    """GroupNorm over the channels of [B, C, H, W], or of two tensors as if they were
    concatenated."""

    silu = False

    def forward(self, x: Tensor, skip: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """shift: [B, C], added to x first."""
        return group_norm_silu(
            x,
            self.weight,
            self.bias,
            self.num_groups,
            self.eps,
            skip=skip,
            silu=self.silu,
            shift=shift,
        )

    def taking(
        self, x: Map, skip: Tensor | None = None, carry: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(x, the norm of it and skip); where x is a sum the norm takes it, and adds carry [C] to what
        comes back of it."""
        if isinstance(x, Tensor):
            assert carry is None
            return x, self(x, skip)
        return add_group_norm(
            x.x,
            x.residual,
            self.weight,
            self.bias,
            self.num_groups,
            self.eps,
            shift=x.shift.expand(x.x.shape[0], -1),
            carry=carry,
            skip=skip,
            silu=self.silu,
        )


class GroupNormSiLU(GroupNorm):
    """GroupNorm, then SiLU."""

    silu = True


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, the time shift added in between; [B, C_in, H, W] -> [B,
    C_out, H, W]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int,
        eps: float,
        time_channels: int | None = None,
    ):
        super().__init__()
        self.out_channels = out_channels
        self.norm1 = GroupNormSiLU(groups, in_channels, eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        if time_channels is not None:
            self.time_emb_proj = nn.Linear(time_channels, out_channels)
        self.norm2 = GroupNormSiLU(groups, out_channels, eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1)
        self.has_shortcut = in_channels != out_channels

    def forward(
        self, x: Map, skip: Tensor | None = None, shift: Tensor | None = None
    ) -> tuple[Tensor, Map]:
        """(x added up, the block of it), [B, C, H, W] and [B, C_out, H, W]. The block's own sum is left
        to the norm after it where operations are fused.

        `skip` [B, C_in - C, H, W] counts as more channels of x; `shift` [B, C_out] is what
        `time_shift` gives. The second norm adds it, and with it conv1's bias: alone, either would be a
        pass over the map.
        """
        x, h = self.norm1.taking(x, skip)
        if shift is None and fused(x):
            assert self.conv1.bias is not None
            shift = self.conv1.bias.expand(x.shape[0], -1)
        h = self.conv1(h) if shift is None else convolved(h, self.conv1.weight)
        h = self.norm2(h, shift=shift)
        if not fused(x):
            return x, self.shortcut(x, skip) + self.conv2(h)
        assert self.conv2.bias is not None
        return x, Sum(self.shortcut(x, skip), convolved(h, self.conv2.weight), self.conv2.bias)

    def time_shift(self, features: Tensor) -> Tensor:
        """What time features [B, C] and conv1's bias add before the second norm: [B, C_out]."""
        return self.time_emb_proj(features) + self.conv1.bias

    def shortcut(self, x: Tensor, skip: Tensor | None) -> Tensor:
        if skip is None:
            return self.conv_shortcut(x) if self.has_shortcut else x
        # A 1x1 convolution of a concatenation is the sum of two: nothing is copied.
        own, kept = self.conv_shortcut.weight.split([x.shape[1], skip.shape[1]], dim=1)
        if fused(x):  # the second as a product into the first
            # Not `to_tokens`: inductor would write x once more, channels first
            mine, theirs = (part.permute(0, 2, 3, 1).flatten(1, 2) for part in (x, skip))
            first = F.linear(theirs, kept.flatten(1), self.conv_shortcut.bias)
            return to_map(add_product(first, mine, own.flatten(1)), *x.shape[2:])
        return F.conv2d(x, own, self.conv_shortcut.bias) + F.conv2d(skip, kept)


class GEGLU(nn.Module):
    """Gated GELU: one projection to twice the width, one half gates the other."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.proj = nn.Linear(channels, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        return geglu(self.proj(x))


class FeedForward(nn.Module):
    """GEGLU of four times the width, then back; the empty middle of `net` keeps diffusers' key
    names."""

    def __init__(self, channels: int):
        super().__init__()
        self.net = nn.Sequential(
            GEGLU(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels)
        )

    @property
    def last(self) -> nn.Linear:
        """The product back to the width it began with."""
        last = self.net[2]
        assert isinstance(last, nn.Linear)
        return last

    def hidden(self, x: Tensor) -> Tensor:
        """What goes into it."""
        return self.net[0](x)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def join_weights(layers: Sequence[nn.Linear]) -> Tensor:
    """The weights [out, in] of layers of one input as one tensor, one after the other. They become
    parts of it, so what is written into either is in both."""
    joined = torch.cat([layer.weight.detach() for layer in layers])
    parts = joined.split([layer.out_features for layer in layers])
    for layer, part in zip(layers, parts, strict=True):
        layer.weight = nn.Parameter(part, requires_grad=False)
    return joined


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, N, heads * d] -> [B, heads, N, d]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, heads, N, d] -> [B, N, heads * d]."""
    return x.transpose(1, 2).flatten(-2)


def to_tokens(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H * W, C]."""
    return x.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """[B, H * W, C] -> [B, C, H, W], channels-last in memory."""
    return tokens.transpose(1, 2).unflatten(2, (height, width))


def sinusoid(values: Tensor, channels: int) -> Tensor:
    """Time features [..., channels] of `values`: [cos, sin] of values x exp(-ln(10^4) k / half), in
    fp32."""
    half = channels // 2
    exponents = (
        -math.log(10_000) * torch.arange(half, device=values.device, dtype=torch.float32) / half
    )
    frequencies = exponents.exp()
    angles = values.float()[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
