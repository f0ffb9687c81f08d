"""self_attention in Triton: one pass over the keys with a running softmax, a head in two tiles.

Counted: 4 B H N n d FLOPs, of which heads of 40 channels are computed as 48 (a library's 64) and
those of 80 and 160 as they are; q, k, v and the result once from memory, k and v again from the L2
for every block of queries; B H N n exponentials.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false, reportAssignmentType=false
# (Triton's launch syntax, kernel[grid](...), has no types.)

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from csrc_triton.edited_attention.tiles import head_of, load_tile, part, rest, store_tile


# q, k and v have channels adjacent; the names from q_row on are strides in elements, multiples of
# VECTOR. out [rows, queries, heads, HEAD] is contiguous. scale is log2(e) / sqrt(HEAD). A head's
# channels are tiles of part(HEAD) and rest(HEAD), as the tokens of a prompt are.
@triton.jit
def self_attention_kernel(
    q, k, v, out, q_row, q_head, q_token, k_row, k_head, k_token, v_row, v_head, v_token,
    queries, keys, scale, HEAD: tl.constexpr, VECTOR: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Program (block, head, row): QUERIES queries of one head, over STEPS times KEYS keys."""
    head = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    q = head_of(q, row, q_row, head, q_head, VECTOR)
    k = head_of(k, row, k_row, head, k_head, VECTOR)
    v = head_of(v, row, v_row, head, v_head, VECTOR)
    wide: tl.constexpr = part(HEAD)
    narrow: tl.constexpr = rest(HEAD)
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    asked = load_tile(q, q_token, query, queries, 0, wide, HEAD, VECTOR)
    total = tl.zeros([QUERIES, wide], tl.float32)
    if narrow:
        asked_rest = load_tile(q, q_token, query, queries, wide, narrow, HEAD, VECTOR)
        total_rest = tl.zeros([QUERIES, narrow], tl.float32)
    peak = tl.full([QUERIES], float("-inf"), tl.float32)
    weights = tl.zeros([QUERIES], tl.float32)

    # A constant number of steps: Triton 3.6's interpreter has no other loops with numpy 2.5.
    for i in range(STEPS):
        key = i * KEYS + tl.arange(0, KEYS)
        tile = load_tile(k, k_token, key, keys, 0, wide, HEAD, VECTOR)
        scores = tl.dot(asked, tl.trans(tile), input_precision="ieee")
        if narrow:
            tile = load_tile(k, k_token, key, keys, wide, narrow, HEAD, VECTOR)
            scores = tl.dot(asked_rest, tl.trans(tile), scores, input_precision="ieee")
        scores = tl.where((key < keys)[None, :], scores * scale, float("-inf"))
        before = peak
        peak = tl.maximum(peak, tl.max(scores, 1))
        shares = tl.exp2(scores - peak[:, None])
        fading = tl.exp2(before - peak)
        weights = weights * fading + tl.sum(shares, 1)
        values = load_tile(v, v_token, key, keys, 0, wide, HEAD, VECTOR)
        shares = shares.to(values.dtype)
        total = tl.dot(shares, values, total * fading[:, None], input_precision="ieee")
        if narrow:
            values = load_tile(v, v_token, key, keys, wide, narrow, HEAD, VECTOR)
            total_rest = total_rest * fading[:, None]
            total_rest = tl.dot(shares, values, total_rest, input_precision="ieee")

    heads = tl.num_programs(1)
    out += (row * queries * heads + head) * HEAD
    share = (1.0 / weights)[:, None]
    store_tile(total * share, out, heads * HEAD, query, queries, 0, wide, HEAD)
    if narrow:
        store_tile(total_rest * share, out, heads * HEAD, query, queries, wide, narrow, HEAD)


def launch(q: Tensor, k: Tensor, v: Tensor, tiling: Sequence[int]) -> Tensor:
    """Run the kernel; arguments as `self_attention`, already checked, and a tiling as in its
    TILINGS. CPU tensors need Triton's interpreter."""
    rows, heads, queries, head = q.shape
    keys = k.shape[2]
    given = [x if x.stride(3) == 1 else x.contiguous() for x in (q, k, v)]
    if any(x.shape[1] * x.stride(1) + x.shape[2] * x.stride(2) >= 2**31 for x in given):
        raise ValueError(
            "q, k or v reach over 2^31 elements within a row: offsets inside a row are 32-bit"
        )
    strides = [stride for x in given for stride in x.stride()[:3]]
    block, step, num_warps, num_stages = tiling
    out = q.new_empty(rows, queries, heads, head)
    if out.numel():
        with torch.cuda.device_of(q):  # Triton launches on the current device
            self_attention_kernel[triton.cdiv(queries, block), heads, rows](
                *given, out, *strides, queries, keys, math.log2(math.e) / math.sqrt(head),
                HEAD=head, VECTOR=math.gcd(16 // q.element_size(), *strides), QUERIES=block,
                KEYS=step, STEPS=triton.cdiv(keys, step), num_warps=num_warps, num_stages=num_stages,
                enable_fp_fusion=True,
            )  # fmt: skip
    return out.transpose(1, 2)
