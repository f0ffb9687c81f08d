"""Attention, with prompt-to-prompt editing written as linear algebra instead of edited attention maps."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icd_engine.networks.blocks import FeedForward, merge_heads, split_heads, to_map, to_tokens


class EditStep(NamedTuple):
    """What one decode step does to attention. The batch is S source rows, then T target rows; prompts have n tokens.

    Cross-attention maps of a target row become P_t' = P_s S + P_t d, with P_s and P_t the softmaxed maps of its source
    row and of its own (prompt-to-prompt; all of it is linear in the maps, so none is ever stored).
    """

    source_row: Tensor  # [T] int64: the source row of each target row
    source_mix: Tensor  # [T, n, n]: S
    target_gain: Tensor  # [T, n]: d
    share_self: Tensor  # [T] bool: self-attention takes Q and K from the source row
    source_words: Tensor | None = None  # [T, n]: 1 on the source prompt's tokens that steer local blend
    target_words: Tensor | None = None  # [T, n]: the same for the target prompt

    def self_attention_rows(self, rows: int) -> Tensor:
        """[rows] int64: where each row of the batch takes Q and K of self-attention from."""
        own = torch.arange(rows, device=self.source_row.device)
        sources = rows - self.source_row.shape[0]
        return torch.cat([own[:sources], torch.where(self.share_self, self.source_row, own[sources:])])


class WordMaps(NamedTuple):
    """Attention paid to the blend words, mean over heads: [T, h, w] for the source rows and the edited target rows."""

    source: Tensor
    target: Tensor


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V for [B, heads, N, d]; values may be wider than queries."""
    if q.requires_grad and q.device.type == "cpu":
        # Training on the CPU: the backward pass of plain products is a quarter faster than of PyTorch's attention.
        return (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Multi-head attention; keys and values come from `context`, by default the input itself."""

    def __init__(self, channels: int, heads: int, context_channels: int | None = None):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_channels or channels, channels, bias=False)
        self.to_v = nn.Linear(context_channels or channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def project(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        return split_heads(q, self.heads), split_heads(k, self.heads), split_heads(v, self.heads)

    def forward(self, x: Tensor, context: Tensor | None = None, query_rows: Tensor | None = None) -> Tensor:
        """x [B, N, C], context [B, n, C'] -> [B, N, C]; with `query_rows` [B] row b uses Q and K of row query_rows[b]."""
        q, k, v = self.project(x, x if context is None else context)
        if query_rows is not None:
            q, k = q[query_rows], k[query_rows]
        return self.to_out[0](merge_heads(attend(q, k, v)))

    def edited(self, x: Tensor, context: Tensor, edit: EditStep) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Cross-attention under `edit`: output [B, N, C] and the blend words' maps [T, N] (None without blend words).

        out_t = attention(Q_s, K_s, S V_t) + attention(Q_t, K_t, d V_t). The blend words' map is the same expression
        for a value column that is 1 on their tokens.
        """
        q, k, v = self.project(x, context)
        mix, gain = edit.source_mix.to(v.dtype)[:, None], edit.target_gain.to(v.dtype)[:, None, :, None]
        blend = edit.source_words is not None and edit.target_words is not None
        sources = v.shape[0] - edit.source_row.shape[0]
        own, targets = v[:sources], v[sources:]
        from_source = targets
        if blend:
            words = edit.target_words.to(v.dtype)[:, None, :, None].expand(*targets.shape[:-1], 1)
            targets = torch.cat([targets, words], dim=-1)
            own = F.pad(own, (0, 1))
        from_source = mix @ targets
        if blend:
            source_words = edit.source_words.to(v.dtype)[:, None, :, None].expand(*v[sources:].shape[:-1], 1)
            from_source = torch.cat([from_source, source_words], dim=-1)
        out = attend(q, k, torch.cat([own, gain * targets]))
        shared = attend(q[edit.source_row], k[edit.source_row], from_source)
        width = out.shape[-1]
        out = torch.cat([out[:sources], out[sources:] + shared[..., :width]])
        result = self.to_out[0](merge_heads(out[..., : v.shape[-1]]))
        if not blend:
            return result, None, None
        return result, shared[..., -1].mean(dim=1), out[sources:, ..., -1].mean(dim=1)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the prompt, feed-forward; each with its norm and residual."""

    def __init__(self, channels: int, heads: int, context_channels: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, heads, context_channels)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(
        self, x: Tensor, context: Tensor, edit: EditStep | None, query_rows: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        x = x + self.attn1(self.norm1(x), query_rows=query_rows)
        source_map = target_map = None
        if edit is None:
            x = x + self.attn2(self.norm2(x), context)
        else:
            out, source_map, target_map = self.attn2.edited(self.norm2(x), context, edit)
            x = x + out
        return x + self.ff(self.norm3(x)), source_map, target_map


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of a feature map [B, C, H, W]."""

    def __init__(
        self, channels: int, heads: int, context_channels: int, *, depth: int, groups: int, linear_projection: bool
    ):
        super().__init__()
        self.linear_projection = linear_projection
        self.norm = nn.GroupNorm(groups, channels, 1e-6)
        self.proj_in = nn.Linear(channels, channels) if linear_projection else nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, heads, context_channels) for _ in range(depth)
        )
        self.proj_out = nn.Linear(channels, channels) if linear_projection else nn.Conv2d(channels, channels, 1)

    def forward(
        self, x: Tensor, context: Tensor, edit: EditStep | None, query_rows: Tensor | None, maps: list[WordMaps] | None
    ) -> Tensor:
        """Appends the blend words' maps of each of its blocks to `maps` where they are asked for."""
        height, width = x.shape[-2:]
        h = self.norm(x)
        tokens = self.proj_in(to_tokens(h)) if self.linear_projection else to_tokens(self.proj_in(h))
        if edit is not None and maps is None:
            edit = edit._replace(source_words=None, target_words=None)
        for block in self.transformer_blocks:
            tokens, source_map, target_map = block(tokens, context, edit, query_rows)
            if maps is not None and source_map is not None and target_map is not None:
                maps.append(WordMaps(*(m.unflatten(-1, (height, width)) for m in (source_map, target_map))))
        if self.linear_projection:
            return x + to_map(self.proj_out(tokens), height, width)
        return x + self.proj_out(to_map(tokens, height, width))
