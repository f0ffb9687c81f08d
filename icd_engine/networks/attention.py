"""Attention, with prompt-to-prompt editing written as linear algebra instead of edited attention
maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from csrc_triton import fused
from csrc_triton.add_product import add_product
from csrc_triton.edited_attention import edited_attention
from csrc_triton.layer_norm import layer_norm
from csrc_triton.self_attention import self_attention
from icd_engine.editing.plan import EditStep
from icd_engine.networks.blocks import (
    FeedForward,
    GroupNorm,
    merge_heads,
    split_heads,
    to_map,
    to_tokens,
)
from icd_engine.networks.sums import Map


class PassState(NamedTuple):
    """What the blocks of one pass take and leave, each list in the order they run in; they take
    from the end."""

    shifts: list[Tensor]  # of every residual block: [B, C_out], from time step and guidance
    # Of every transformer block's text attention: K and V [R, n, C], and under an edit S V and d V of
    # the target rows [T, n, C]
    prompt: list[tuple[Tensor, ...]]
    edit: EditStep | None
    columns: Tensor | None  # word_columns(edit)
    source: list[Tensor] | None  # left by an earlier pass: the batch holds target rows alone
    kept: list[Tensor] | None  # left for later passes; None where nothing is to be kept
    maps: list[Tensor]  # left by every block that local blend reads: [2, T, h, w]

    def check_taken(self) -> None:
        """RuntimeError unless the blocks have taken all: what is left was meant for one of them, so
        each after it took another's."""
        left = {"shifts": self.shifts, "prompt": self.prompt, "source": self.source}
        for name, tensors in left.items():
            if tensors:
                raise RuntimeError(f"a pass ended with {len(tensors)} of its {name} not taken")


def prompt_tables(
    prompt: Tensor, widths: Sequence[int], edit: EditStep | None
) -> list[tuple[Tensor, ...]]:
    """UNet.prompt_values [R, n, D] as each block takes it: see `PassState`. The edit's products are
    those of all blocks at once."""
    tables = list(prompt.chunk(2, dim=-1))
    if edit is not None:
        own = tables[1][prompt.shape[0] - edit.source_row.shape[0] :]
        # d V as a product with diag(d), which is as exact, so that one product gives both
        one = torch.eye(own.shape[1], device=own.device)
        both = torch.cat([edit.source_mix, edit.target_gain[:, None] * one], dim=1)
        tables += (both.to(own.dtype) @ own).chunk(2, dim=1)
    return list(zip(*(table.split(list(widths), dim=-1) for table in tables), strict=True))


def word_columns(edit: EditStep | None) -> Tensor | None:
    """[3, T, n]: the blend words as columns of the three sets of values: own, S V, d V; None
    without words."""
    if edit is None or edit.source_words is None or edit.target_words is None:
        return None
    mixed = (edit.source_mix @ edit.target_words[..., None])[..., 0]
    return torch.stack([edit.source_words, mixed, edit.target_gain * edit.target_words])


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V for [B, heads, N, d]."""
    if q.requires_grad and q.device.type == "cpu":
        # Training on the CPU: the backward pass of plain products is a quarter faster than of
        # PyTorch's attention.
        return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1) @ v
    if fused(q):  # where it was measured to be faster
        return self_attention(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Multi-head attention; keys and values come from a context, by default the input itself."""

    joined: Tensor | None

    def __init__(self, channels: int, heads: int, context_channels: int | None = None):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_channels or channels, channels, bias=False)
        self.to_v = nn.Linear(context_channels or channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])
        # The weights of self-attention's Q, K and V, whose parts to_q, to_k and to_v then are
        self.register_buffer("joined", None, persistent=False)

    def split(self, x: Tensor) -> Tensor:
        return split_heads(x, self.heads)

    def out(self, x: Tensor) -> Tensor:
        return self.to_out[0](merge_heads(x))

    def to_self(self, x: Tensor, state: PassState, shared: bool) -> Tensor:
        """Self-attention of x [B, N, C]; where `shared`, rows that share take Q and K from their
        source row."""
        *own, v = self.projected(x)
        if shared and state.edit is not None:
            own = self._shared(own, state, state.edit)
        q, k = own if len(own) == 2 else own[0].chunk(2, dim=-1)
        return self.out(attend(self.split(q), self.split(k), self.split(v)))

    def projected(self, x: Tensor) -> tuple[Tensor, ...]:
        """Q, K and V of x [B, N, C]; Q and K as one tensor [B, N, 2 C] where they are one product."""
        layers = (self.to_q, self.to_k, self.to_v)
        if self.joined is None or any(map(is_parametrized, layers)):
            return self.to_q(x), self.to_k(x), self.to_v(x)
        channels = x.shape[-1]
        return F.linear(x, self.joined).split([2 * channels, channels], dim=-1)

    def _shared(self, own: list[Tensor], state: PassState, edit: EditStep) -> list[Tensor]:
        """Q and K of all rows, those of rows that share their source's."""
        # not len(): exporters take it for a constant
        sources = own[0].shape[0] - edit.source_row.shape[0]
        given = None
        if state.source is not None:
            given = [merge_heads(state.source.pop()), merge_heads(state.source.pop())]
        if len(own) == 2:
            theirs = given or [part[:sources] for part in own]
            mixed = [
                _mixed(part, their, sources, edit) for part, their in zip(own, theirs, strict=True)
            ]
        else:
            both = own[0].unflatten(-1, (2, -1)).movedim(-2, 0)  # [2, R, N, C]
            their = both[:, :sources] if given is None else torch.stack(given)
            whole = _mixed(both, their, sources, edit)
            # By strides: inductor then makes both in one launch, and would make slices in one each
            size, stride = whole.shape[1:], whole.stride()[1:]
            mixed = [whole.as_strided(size, stride, k * whole.stride(0)) for k in (0, 1)]
        if state.kept is not None:
            kept = given or [part[:sources] for part in mixed]
            state.kept.extend(self.split(part) for part in kept)
        return mixed

    def to_prompt(
        self, x: Tensor, state: PassState, with_maps: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Attention of x [B, N, C] to the prompt, under the edit; maps [2, T, N] of the blend words
        where asked for."""
        q = self.split(self.to_q(x))
        k, v, *edited = (self.split(part) for part in state.prompt.pop())
        if state.edit is None:
            return self.out(attend(q, k, v)), None
        mixed, gained = edited
        sources = k.shape[0] - state.edit.source_row.shape[0]
        if state.source is not None:
            source_q = state.source.pop()
            source_v = None
        else:
            source_q = q[:sources]
            q = q[sources:]
            source_v = v[:sources]
        if state.kept is not None:
            state.kept.append(source_q)
        out, maps = edited_attention(
            q,
            k[sources:],
            gained,
            source_q,
            k[:sources],
            mixed,
            state.edit.source_row,
            source_v=source_v,
            columns=state.columns if with_maps else None,
        )
        return self.out(out), maps


def _mixed(own: Tensor, their: Tensor, sources: int, edit: EditStep) -> Tensor:
    """[..., R, N, C]: the rows as they are, but those that share as the source row they share with."""
    mine, targets = own[..., :sources, :, :], own[..., sources:, :, :]
    share = edit.share_self[:, None, None]
    shared = torch.where(share, their[..., edit.source_row, :, :], targets)
    return torch.cat([mine, shared], dim=-3)


class LayerNorm(nn.LayerNorm):
    """x + residual (+ carry [C]), and the normalised form of x + residual: [..., C] both."""

    def forward(
        self, x: Tensor, residual: Tensor | None = None, carry: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return layer_norm(x, self.weight, self.bias, self.eps, residual=residual, carry=carry)


class TransformerBlock(nn.Module):
    """Self-attention, attention to the prompt, feed-forward; each with its norm and residual."""

    def __init__(self, channels: int, heads: int, context_channels: int):
        super().__init__()
        self.channels = channels
        self.norm1 = LayerNorm(channels)
        self.attn1 = Attention(channels, heads)
        self.norm2 = LayerNorm(channels)
        self.attn2 = Attention(channels, heads, context_channels)
        self.norm3 = LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(
        self, x: Tensor, state: PassState, shares_self: bool, with_maps: bool
    ) -> tuple[Tensor, Tensor | None]:
        x, h = self.norm1(x)
        x, h = self.norm2(self.attn1.to_self(h, state, shares_self), x)
        prompted, maps = self.attn2.to_prompt(h, state, with_maps)
        if not fused(prompted):
            x, h = self.norm3(prompted, x)
            return x + self.ff(h), maps
        last = self.ff.last
        x, h = self.norm3(prompted, x, last.bias)
        return add_product(x, self.ff.hidden(h), last.weight), maps


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of a feature map [B, C, H, W]."""

    def __init__(
        self,
        channels: int,
        heads: int,
        context_channels: int,
        *,
        depth: int,
        groups: int,
        linear_projection: bool,
    ):
        super().__init__()
        self.norm = GroupNorm(groups, channels, 1e-6)
        self.proj_in = (
            nn.Linear(channels, channels) if linear_projection else nn.Conv2d(channels, channels, 1)
        )
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, heads, context_channels) for _ in range(depth)
        )
        self.proj_out = (
            nn.Linear(channels, channels) if linear_projection else nn.Conv2d(channels, channels, 1)
        )

    def forward(self, x: Map, state: PassState, shares_self: bool, feeds_blend: bool) -> Tensor:
        """[B, C, H, W] -> the same. A sum is taken by the norm, and the last product adds into it."""
        how = (state, shares_self, feeds_blend)
        last = self.proj_out
        if isinstance(x, Tensor):
            tokens = self._transformed(self.norm(x), *how)
            return x + to_map(project(last, tokens), *x.shape[-2:])
        x, normed = self.norm.taking(x, carry=last.bias)
        total = add_product(to_tokens(x), self._transformed(normed, *how), last.weight.flatten(1))
        return to_map(total, *x.shape[-2:])

    def _transformed(
        self, normed: Tensor, state: PassState, shares_self: bool, feeds_blend: bool
    ) -> Tensor:
        tokens = project(self.proj_in, to_tokens(normed))
        for block in self.transformer_blocks:
            tokens, maps = block(tokens, state, shares_self, feeds_blend)
            if maps is not None:
                state.maps.append(maps.unflatten(-1, tuple(normed.shape[-2:])))
        return tokens


def project(layer: nn.Linear | nn.Conv2d, tokens: Tensor) -> Tensor:
    """A linear layer, or a 1x1 convolution, which is one too: [B, N, C] -> [B, N, C']."""
    return F.linear(tokens, layer.weight.flatten(1), layer.bias)
