"""Prompt-to-prompt cross-attention of all rows of a batch, its edit of the maps moved to the values
they multiply."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from csrc_triton import fused
from csrc_triton.checks import NETWORK_DTYPES, check_tensors, listed
from csrc_triton.edited_attention.reference import edited_attention_reference

__all__ = ["edited_attention"]


def edited_attention(
    q: Tensor,
    k: Tensor,
    gained: Tensor,
    source_q: Tensor,
    source_k: Tensor,
    mixed: Tensor,
    source_row: Tensor,
    *,
    source_v: Tensor | None = None,
    columns: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Cross-attention under an edit: (out [S + T, H, N, d], or [T, H, N, d] without source_v; maps
    [2, T, N] or None).

    Prompt-to-prompt (arXiv 2208.01626) replaces the map of a target row by P_s S + P_t diag(d).
    That is linear in the maps of its source row and of its own, P = softmax(q k^T / sqrt(head
        size)), so S and d go to the values instead: out_t = P_s mixed + P_t gained      with mixed
        = S V_t and gained = diag(d) V_t out_s = P_s source_v
        maps[0] = mean over heads of P_s columns[0]
        maps[1] = mean over heads of P_s columns[1] + P_t columns[2]

    q: [T, H, N, d], the target rows' queries at N positions. k, gained, mixed: [T, H, n, d], n
    tokens of the prompt.
    source_q, source_k: [S, H, N, d] and [S, H, n, d], those of the source rows.
    source_row: [T] int64, the source of each target, in 0..S-1 (not checked: that would wait for
    the device).
    source_v: [S, H, n, d] or None. With it the sources' own outputs come first in out.
    columns: [3, T, n] float32 or None: 1 on the source prompt's blend words, S @ (1 on the target
        prompt's blend words), and d * (1 on them). The maps that local blend reads are float32.
    All but source_row and columns share a dtype, float32, float16 or bfloat16, and may have any
    strides: heads split from a projection's output are read in place. out is [rows, N, H, d] in
    memory, so that merging heads is a view.

    Raises ValueError or TypeError, naming the argument. On GPUs older than sm_80 and for prompts
    over 256 tokens plain PyTorch computes it. Differentiable where gradients are on: then it is
    `edited_attention_reference`.
    """
    arguments = (q, k, gained, source_q, source_k, mixed, source_row, source_v, columns)
    _check(*arguments)
    if not fused(q):
        return edited_attention_reference(*arguments)
    out, maps = torch.ops.icd.edited_attention(*arguments)
    return out, None if columns is None else maps


def _check(
    q: Tensor,
    k: Tensor,
    gained: Tensor,
    source_q: Tensor,
    source_k: Tensor,
    mixed: Tensor,
    source_row: Tensor,
    source_v: Tensor | None,
    columns: Tensor | None,
) -> None:
    for name, tensor in {"q": q, "k": k, "source_q": source_q}.items():
        if tensor.ndim != 4:
            raise ValueError(f"{name} must have 4 axes, got {list(tensor.shape)}")
    (targets, heads, positions, head) = q.shape
    tokens = k.shape[2]
    sources = source_q.shape[0]
    if not (heads and tokens and head):
        raise ValueError(f"k must have heads, tokens and channels, got {list(k.shape)}")
    if q.dtype not in NETWORK_DTYPES:
        raise TypeError(f"q must be {listed(NETWORK_DTYPES)}, got {q.dtype}")
    own = (q.dtype,)
    values = (targets, heads, tokens, head)
    source_values = (sources, heads, tokens, head)
    expected = {
        "q": (q, q.shape, own),
        "k": (k, values, own),
        "gained": (gained, values, own),
        "source_q": (source_q, (sources, heads, positions, head), own),
        "source_k": (source_k, source_values, own),
        "mixed": (mixed, values, own),
        "source_row": (source_row, (targets,), (torch.int64,)),
        "source_v": (source_v, source_values, own),
        "columns": (columns, (3, targets, tokens), (torch.float32,)),
    }
    check_tensors(expected)


def _plain(
    q: Tensor,
    k: Tensor,
    gained: Tensor,
    source_q: Tensor,
    source_k: Tensor,
    mixed: Tensor,
    source_row: Tensor,
    source_v: Tensor | None = None,
    columns: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The reference as an operator: without columns the maps are an empty tensor."""
    out, maps = edited_attention_reference(
        q, k, gained, source_q, source_k, mixed, source_row, source_v, columns
    )
    return out, q.new_empty(0) if maps is None else maps


_op = torch.library.custom_op("icd::edited_attention", _plain, mutates_args=(), device_types="cpu")


@_op.register_kernel("cuda")
def _cuda(q: Tensor, k: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    from csrc_triton.edited_attention.kernel import fits, launch  # Triton exists on GPU builds only

    return (launch if fits(q, k) else _plain)(q, k, *others)


@_op.register_fake
def _fake(q, k, gained, source_q, source_k, mixed, source_row, source_v=None, columns=None):
    targets, heads, positions, head = q.shape
    rows = targets if source_v is None else source_v.shape[0] + targets
    out = q.new_empty(rows, positions, heads, head).transpose(1, 2)
    return out, q.new_empty(0) if columns is None else columns.new_empty(2, targets, positions)
