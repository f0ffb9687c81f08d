"""The definition of edited_attention in plain PyTorch; it is also the CPU implementation and what
exporters see."""

from __future__ import annotations

import torch
from torch import Tensor


def edited_attention_reference(
    q: Tensor,
    k: Tensor,
    gained: Tensor,
    source_q: Tensor,
    source_k: Tensor,
    mixed: Tensor,
    source_row: Tensor,
    source_v: Tensor | None = None,
    columns: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """out_t = P_s mixed + P_t gained, out_s = P_s source_v. As `csrc_triton.edited_attention`,
    unchecked, in float32.

    For 77 tokens, two stored maps and plain products take about two thirds of the CPU time of
    PyTorch's own attention, which would compute P_s once for every set of values.
    """
    P_s = attention_map(source_q, source_k)
    P_t = attention_map(q, k)
    shared = P_s if P_s.shape[0] == 1 else P_s[source_row]  # one source broadcasts: nothing to copy
    rows = [shared @ mixed.float() + P_t @ gained.float()]
    if source_v is not None:
        rows.insert(0, P_s @ source_v.float())
    out = torch.cat([row.transpose(1, 2) for row in rows]).to(q.dtype).transpose(1, 2)
    if columns is None:
        return out, None
    source_words, mixed_words, gained_words = columns[:, :, None, :, None].unbind()
    maps = torch.stack([shared @ source_words, shared @ mixed_words + P_t @ gained_words])
    return out, maps.squeeze(-1).mean(dim=2)


def attention_map(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) in float32: [R, H, N, d], [R, H, n, d] -> [R, H, N, n]."""
    scaled = k.float() * k.shape[-1] ** -0.5  # n x d numbers to scale; the map would have N x n
    return (q.float() @ scaled.transpose(-2, -1)).softmax(dim=-1)
