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
        """x [B, N, C], context [B, n, C'] -> [B, N, C]; row b takes Q and K of row query_rows[b] where given."""
        q, k, v = self.project(x, x if context is None else context)
        if query_rows is not None:
            q, k = q[query_rows], k[query_rows]
        return self.to_out[0](merge_heads(attend(q, k, v)))

    def edited(self, x: Tensor, context: Tensor, edit: EditStep) -> tuple[Tensor, WordMaps | None]:
        """Cross-attention under `edit`: output [B, N, C] and the blend words' maps, [T, N] here (None without words).

        out_t = attention(Q_s, K_s, S V_t) + attention(Q_t, K_t, d V_t). The blend words' map is the same expression
        for a value column that is 1 on their tokens.
        """
        q, k, v = self.project(x, context)
        width, sources = v.shape[-1], v.shape[0] - edit.source_row.shape[0]
        own, targets = v[:sources], v[sources:]
        words = (
            None if edit.source_words is None or edit.target_words is None else (edit.source_words, edit.target_words)
        )
        if words is not None:
            own, targets = F.pad(own, (0, 1)), _with_column(targets, words[1])
        mixed = edit.source_mix.to(v.dtype)[:, None] @ targets
        if words is not None:
            mixed = _with_column(mixed, words[0])
        gained = edit.target_gain.to(v.dtype)[:, None, :, None] * targets
        out = attend(q, k, torch.cat([own, gained]))
        shared = attend(q[edit.source_row], k[edit.source_row], mixed)
        edited = out[sources:] + shared[..., : out.shape[-1]]
        result = self.to_out[0](merge_heads(torch.cat([out[:sources], edited])[..., :width]))
        if words is None:
            return result, None
        return result, WordMaps(shared[..., -1].mean(dim=1), edited[..., -1].mean(dim=1))


def _with_column(values: Tensor, column: Tensor) -> Tensor:
    """Values [T, heads, n, d] with `column` [T, n] appended to every head: [T, heads, n, d + 1]."""
    return torch.cat([values, column.to(values.dtype)[:, None, :, None].expand(*values.shape[:-1], 1)], dim=-1)


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
    ) -> tuple[Tensor, WordMaps | None]:
        x = x + self.attn1(self.norm1(x), query_rows=query_rows)
        if edit is None:
            prompted, maps = self.attn2(self.norm2(x), context), None
        else:
            prompted, maps = self.attn2.edited(self.norm2(x), context, edit)
        x = x + prompted
        return x + self.ff(self.norm3(x)), maps


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
            tokens, words = block(tokens, context, edit, query_rows)
            if maps is not None and words is not None:
                maps.append(WordMaps(*(m.unflatten(-1, (height, width)) for m in words)))
        if self.linear_projection:
            return x + to_map(self.proj_out(tokens), height, width)
        return x + self.proj_out(to_map(tokens, height, width))
