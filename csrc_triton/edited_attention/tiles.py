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
