"""What edited_attention's kernel does with tiles: a prompt in one or two of them, scores, softmax,
products."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

# The interpreter's tl.dot takes the bits of bfloat16 for integers: there the operands are widened
# first.
INTERPRETED: tl.constexpr = tl.constexpr(knobs.runtime.interpret)


@triton.constexpr_function
def part(tokens: int) -> int:
    """A prompt is one tile of a power of two, or two where that wastes less: 77 = 64 + 16 (masked)
    instead of 128.

    `part` is the first tile and `rest` the second, 0 where there is none; tl.dot wants at least 16.
    """
    whole = max(16, 1 << (tokens - 1).bit_length())
    half = whole // 2
    return half if half + max(16, 1 << (tokens - half - 1).bit_length()) < whole else whole


@triton.constexpr_function
def rest(tokens: int) -> int:
    beyond = tokens - part(tokens)
    return max(16, 1 << (beyond - 1).bit_length()) if beyond > 0 else 0


@triton.jit
def head_of(tensor, row, row_stride, head, head_stride, VECTOR: tl.constexpr):
    """Where a head of a row begins.

    The hint keeps loads 16 bytes wide: a stride of 40 is nothing to Triton itself.
    """
    return tensor + tl.multiple_of(row * row_stride + head * head_stride, VECTOR)


@triton.jit
def load_tile(
    base, stride, rows, limit, first, WIDTH: tl.constexpr, HEAD: tl.constexpr, VECTOR: tl.constexpr
):
    """[rows, WIDTH] from channel `first` on of a matrix of HEAD channels; 0 beyond them and in rows
    from `limit` on."""
    channel = first + tl.arange(0, WIDTH)
    inside = (rows < limit)[:, None]
    if HEAD % WIDTH:
        inside = inside & (channel < HEAD)[None, :]
    offset = tl.multiple_of(rows[:, None] * stride, (VECTOR, VECTOR))
    tile = tl.load(base + offset + channel[None, :], mask=inside, other=0.0)
    if INTERPRETED and tile.dtype == tl.bfloat16:
        tile = tile.to(tl.float32)
    return tile


@triton.jit
def store_tile(tile, base, stride, rows, limit, first, WIDTH: tl.constexpr, HEAD: tl.constexpr):
    channel = first + tl.arange(0, WIDTH)
    inside = (rows < limit)[:, None]
    if HEAD % WIDTH:
        inside = inside & (channel < HEAD)[None, :]
    tl.store(base + rows[:, None] * stride + channel[None, :], tile, mask=inside)


@triton.jit
def add_scores(
    qk, qk_rest, q, q_token, rows, limit, k, k_token, tokens, first,
    WIDTH: tl.constexpr, PROMPT: tl.constexpr, HEAD: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """The scores of both parts of the prompt, plus what WIDTH channels from `first` on
    contribute."""
    q = load_tile(q, q_token, rows, limit, first, WIDTH, HEAD, VECTOR)
    token = tl.arange(0, part(PROMPT))
    keys = load_tile(k, k_token, token, tokens, first, WIDTH, HEAD, VECTOR)
    qk = tl.dot(q, tl.trans(keys), qk, input_precision="ieee")
    if rest(PROMPT):
        token = part(PROMPT) + tl.arange(0, rest(PROMPT))
        keys = load_tile(k, k_token, token, tokens, first, WIDTH, HEAD, VECTOR)
        qk_rest = tl.dot(q, tl.trans(keys), qk_rest, input_precision="ieee")
    return qk, qk_rest


@triton.jit
def softmax(qk, qk_rest, scale, PROMPT: tl.constexpr):
    """Scores to shares: 2^(scale qk) over its sum, with the largest score subtracted first."""
    token = tl.arange(0, part(PROMPT))
    qk = tl.where((token < PROMPT)[None, :], qk, float("-inf"))
    peak = tl.max(qk, 1)
    if rest(PROMPT):
        token = part(PROMPT) + tl.arange(0, rest(PROMPT))
        qk_rest = tl.where((token < PROMPT)[None, :], qk_rest, float("-inf"))
        peak = tl.maximum(peak, tl.max(qk_rest, 1))
    peak = (peak * scale)[:, None]
    p = tl.exp2(qk * scale - peak)
    p_rest = tl.exp2(qk_rest * scale - peak)
    total = tl.sum(p, 1)
    if rest(PROMPT):
        total += tl.sum(p_rest, 1)
    share = (1.0 / total)[:, None]
    return p * share, p_rest * share


@triton.jit
def add_product(
    total, p, p_rest, v, v_token, tokens, first,
    WIDTH: tl.constexpr, PROMPT: tl.constexpr, HEAD: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """total + P V for WIDTH channels from `first` on; P is rounded to the values' dtype."""
    token = tl.arange(0, part(PROMPT))
    values = load_tile(v, v_token, token, tokens, first, WIDTH, HEAD, VECTOR)
    total = tl.dot(p.to(values.dtype), values, total, input_precision="ieee")
    if rest(PROMPT):
        token = part(PROMPT) + tl.arange(0, rest(PROMPT))
        values = load_tile(v, v_token, token, tokens, first, WIDTH, HEAD, VECTOR)
        total = tl.dot(p_rest.to(values.dtype), values, total, input_precision="ieee")
    return total


@triton.jit
def word_map(p, p_rest, column, tokens, PROMPT: tl.constexpr):
    """P times one column of values, all in float32."""
    token = tl.arange(0, part(PROMPT))
    attention = tl.sum(p * tl.load(column + token, mask=token < tokens, other=0.0)[None, :], 1)
    if rest(PROMPT):
        token = part(PROMPT) + tl.arange(0, rest(PROMPT))
        attention += tl.sum(
            p_rest * tl.load(column + token, mask=token < tokens, other=0.0)[None, :], 1
        )
    return attention


@triton.jit
def both_maps(
    source_q, source_q_token, source_k, source_k_token, q, q_token, k, k_token,
    rows, positions, target_positions, target_tokens, scale,
    PROMPT: tl.constexpr, HEAD: tl.constexpr, VECTOR: tl.constexpr, BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """P_s and P_t of BLOCK positions of a head, each in the two parts of the prompt."""
    s = tl.zeros([BLOCK, part(PROMPT)], tl.float32)
    s_rest = tl.zeros([BLOCK, max(rest(PROMPT), 1)], tl.float32)
    t, t_rest = s, s_rest
    for first in range(0, HEAD, WIDTH):
        s, s_rest = add_scores(
            s, s_rest, source_q, source_q_token, rows, positions, source_k, source_k_token, PROMPT, first,
            WIDTH, PROMPT, HEAD, VECTOR,
        )  # fmt: skip
        t, t_rest = add_scores(
            t, t_rest, q, q_token, rows, target_positions, k, k_token, target_tokens, first,
            WIDTH, PROMPT, HEAD, VECTOR,
        )  # fmt: skip
    s, s_rest = softmax(s, s_rest, scale, PROMPT)
    t, t_rest = softmax(t, t_rest, scale, PROMPT)
    return s, s_rest, t, t_rest


@triton.jit
def store_word_maps(
    s, s_rest, t, t_rest, columns, maps, role, targets, head, heads, rows, positions,
    target_positions, target_tokens, PROMPT: tl.constexpr,
):  # fmt: skip
    """P_s columns[0], and P_s columns[1] + P_t columns[2], of one head of one target row."""
    column = columns + role * PROMPT
    target_columns = targets * PROMPT
    source_map = word_map(s, s_rest, column, target_tokens, PROMPT)
    target_map = word_map(s, s_rest, column + target_columns, target_tokens, PROMPT)
    target_map += word_map(t, t_rest, column + 2 * target_columns, target_tokens, PROMPT)
    source_maps = maps + (role * heads + head) * positions
    target_maps = maps + ((targets + role) * heads + head) * positions
    tl.store(source_maps + rows, source_map, mask=rows < target_positions)
    tl.store(target_maps + rows, target_map, mask=rows < target_positions)


@triton.jit
def store_products(
    s, s_rest, t, t_rest, source_v, source_v_token, source_tokens, source_out, source_positions,
    mixed, mixed_token, gained, gained_token, target_tokens, target_out, target_positions,
    rows, out_token,
    PROMPT: tl.constexpr, HEAD: tl.constexpr, VECTOR: tl.constexpr, BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """P_s source_v and P_s mixed + P_t gained, WIDTH channels after WIDTH channels."""
    for first in range(0, HEAD, WIDTH):
        nothing = tl.zeros([BLOCK, WIDTH], tl.float32)
        if source_v is not None:
            own = add_product(
                nothing, s, s_rest, source_v, source_v_token, source_tokens, first,
                WIDTH, PROMPT, HEAD, VECTOR,
            )  # fmt: skip
            store_tile(own, source_out, out_token, rows, source_positions, first, WIDTH, HEAD)
        edited = add_product(
            nothing,
            s,
            s_rest,
            mixed,
            mixed_token,
            target_tokens,
            first,
            WIDTH,
            PROMPT,
            HEAD,
            VECTOR,
        )
        edited = add_product(
            edited, t, t_rest, gained, gained_token, target_tokens, first,
            WIDTH, PROMPT, HEAD, VECTOR,
        )  # fmt: skip
        store_tile(edited, target_out, out_token, rows, target_positions, first, WIDTH, HEAD)
