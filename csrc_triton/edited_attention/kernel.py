"""edited_attention as one Triton kernel: both softmaxed maps stay in registers and serve every set
of values they have.

A whole prompt fits a tile, so the softmax needs one pass over it and no rescaling; the loops run
over channels.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false
# (Triton's launch syntax, kernel[grid](...), has no types, and its
# functions say little of theirs.)

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from csrc_triton.edited_attention.tiles import (
    both_maps,
    head_of,
    store_products,
    store_word_maps,
)

LARGEST_PROMPT = 256  # tokens


# Roles below `targets` are the target rows; the first target of a source also writes the source's
# output, from the same P_s. Further roles are the `sources`: they return at once, except where a
# source has no target. Without source_v, `sources` is 0 and out has no source rows.
#
# The names from q_row on are strides in elements, multiples of VECTOR; channels are adjacent. out
# [sources + targets, positions, heads, HEAD], maps [2, targets, heads, positions], columns [3,
# targets, PROMPT] and source_row are contiguous. source_v and columns may be None, which compiles
# their part away. TARGETS is a power of two and at least `targets`; scale is log2(e) / sqrt(HEAD).
@triton.jit
def edited_attention_kernel(
    q, k, gained, source_q, source_k, mixed, source_v, columns, source_row, out, maps,
    q_row, q_head, q_token, k_row, k_head, k_token, gained_row, gained_head, gained_token,
    source_q_row, source_q_head, source_q_token, source_k_row, source_k_head, source_k_token,
    mixed_row, mixed_head, mixed_token, source_v_row, source_v_head, source_v_token,
    positions, targets, sources, scale, TARGETS: tl.constexpr, PROMPT: tl.constexpr,
    HEAD: tl.constexpr, VECTOR: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Program (block, head, role): BLOCK positions of one head of one target row, and of its
    source's own output; roles and arguments as above."""
    head = tl.program_id(1)
    heads = tl.num_programs(1)
    role = tl.program_id(2).to(tl.int64)
    is_target = role < targets
    source = tl.load(source_row + role, mask=is_target, other=0)
    # These limits close the masks of what a program has no part in: zeros are read for it, and
    # nothing is stored.
    target_positions = positions
    target_tokens = PROMPT
    source_positions = positions
    source_tokens = PROMPT
    if source_v is not None:
        source = tl.where(is_target, source, role - targets)
        other = tl.arange(0, TARGETS)
        others = tl.load(source_row + other, mask=other < targets, other=-1)
        # An earlier role writes the source
        taken = tl.max(((others == source) & (other < role)).to(tl.int32), 0) == 1
        if taken & (role >= targets):
            return
        target_positions = tl.where(is_target, positions, 0)
        target_tokens = tl.where(is_target, PROMPT, 0)
        source_positions = tl.where(taken, 0, positions)
        source_tokens = tl.where(taken, 0, PROMPT)
        source_v = head_of(source_v, source, source_v_row, head, source_v_head, VECTOR)

    q = head_of(q, role, q_row, head, q_head, VECTOR)
    k = head_of(k, role, k_row, head, k_head, VECTOR)
    gained = head_of(gained, role, gained_row, head, gained_head, VECTOR)
    source_q = head_of(source_q, source, source_q_row, head, source_q_head, VECTOR)
    source_k = head_of(source_k, source, source_k_row, head, source_k_head, VECTOR)
    mixed = head_of(mixed, role, mixed_row, head, mixed_head, VECTOR)
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)

    s, s_rest, t, t_rest = both_maps(
        source_q, source_q_token, source_k, source_k_token, q, q_token, k, k_token,
        rows, positions, target_positions, target_tokens, scale, PROMPT, HEAD, VECTOR, BLOCK, WIDTH,
    )  # fmt: skip
    if columns is not None:
        store_word_maps(
            s, s_rest, t, t_rest, columns, maps, role, targets, head, heads, rows, positions,
            target_positions, target_tokens, PROMPT,
        )  # fmt: skip

    source_out = out + (source * positions * heads + head) * HEAD
    target_out = out + ((sources + role) * positions * heads + head) * HEAD
    store_products(
        s, s_rest, t, t_rest, source_v, source_v_token, source_tokens, source_out, source_positions,
        mixed, mixed_token, gained, gained_token, target_tokens, target_out, target_positions,
        rows, heads * HEAD, PROMPT, HEAD, VECTOR, BLOCK, WIDTH,
    )  # fmt: skip


def fits(q: Tensor, k: Tensor) -> bool:
    """Whether there is a kernel: matrix units came with sm_80, and longer prompts than 256 tokens
    fit no tile."""
    return k.shape[2] <= LARGEST_PROMPT and torch.cuda.get_device_capability(q.device) >= (8, 0)


def tiling(element_size: int, prompt: int, head: int) -> tuple[int, int, int]:
    """(positions of a program, channels of a step, warps), by what spills no registers on sm_80 and
    newer.

    Counted, not measured: heads of 40 and 80 take steps of 32 as well. Steps of 16 would waste
    nothing (40 = 3 x 16 instead of 64), but Hopper's matrix units spend as long on a product 16
    wide as on one of 32, and each step waits.
    """
    if element_size == 4:
        return (32, 16, 4) if prompt <= 96 else (16, 16, 8)
    return 64 if prompt <= 96 else 16, 16 if head <= 16 else 32, 4


def launch(
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
    """Run the kernel; arguments as `edited_attention`, already checked. CPU tensors need Triton's
    interpreter.

    Every program writes the maps of its head and one reduction takes their mean: atomic additions
    would let results differ from run to run. Without columns the maps are an empty tensor, because
    an operator cannot return None.
    """
    targets, heads, positions, head = q.shape
    prompt = k.shape[2]
    sources = 0 if source_v is None else source_v.shape[0]
    strided = [q, k, gained, source_q, source_k, mixed, source_v]
    strided = [x if x is None or x.stride(3) == 1 else x.contiguous() for x in strided]
    strides = [stride for x in strided for stride in ((0, 0, 0) if x is None else x.stride()[:3])]
    if any(
        x is not None and x.shape[1] * x.stride(1) + x.shape[2] * x.stride(2) >= 2**31
        for x in strided
    ):
        raise ValueError(
            "q, k or values reach over 2^31 elements within a row: offsets inside a row are 32-bit"
        )
    block, width, num_warps = tiling(q.element_size(), prompt, head)
    out = q.new_empty(sources + targets, positions, heads, head)
    maps = (
        q.new_empty(0)
        if columns is None
        else q.new_empty(2, targets, heads, positions, dtype=torch.float32)
    )
    if out.numel():
        with torch.cuda.device_of(q):  # Triton launches on the current device
            edited_attention_kernel[triton.cdiv(positions, block), heads, targets + sources](
                *strided, None if columns is None else columns.contiguous(), source_row.contiguous(),
                out, None if columns is None else maps, *strides,
                positions, targets, sources, math.log2(math.e) / math.sqrt(head),
                TARGETS=triton.next_power_of_2(max(targets, 1)), PROMPT=prompt, HEAD=head,
                VECTOR=math.gcd(16 // q.element_size(), *strides), BLOCK=block, WIDTH=width, num_warps=num_warps,
                enable_fp_fusion=True,  # said aloud because Triton 3.10 changes the default
            )  # fmt: skip
    return out.transpose(1, 2), maps if columns is None else maps.mean(dim=2)
