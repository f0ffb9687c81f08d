"""Rows of attention, and the formula in float64 with a bound on its rounding."""

from collections.abc import Callable

import torch
from torch import Tensor

from csrc_triton.edited_attention import edited_attention

# (sources, source of each target, heads, positions, tokens, head size). Every head size of SD1.5
# and of the embedded model, prompts of one tile (8, 64) and of two (20, 77, 154), positions that
# fill no block of 16, 32 or 64.
SHAPES = {
    "sd-40": (1, (0,), 2, 9, 77, 40),
    "sd-80": (1, (0,), 1, 5, 77, 80),
    "sd-160-two-targets": (1, (0, 0), 1, 3, 77, 160),
    "tiny-16-two-blocks": (1, (0,), 1, 70, 77, 16),
    "tiny-32": (1, (0,), 1, 17, 77, 32),
    "64-permuted": (2, (1, 0, 1), 1, 3, 8, 64),
    "long-prompt": (1, (0,), 1, 17, 154, 40),
    "odd-sources-without-target": (3, (1,), 1, 4, 20, 23),
    "one-of-all": (1, (0,), 1, 1, 1, 1),
    "no-targets": (2, (), 1, 3, 64, 16),
}
# Largest relative error of one rounding: to nearest, but the interpreter truncates to bfloat16.
ROUNDOFF = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-7}
# And absolute, in our range of numbers
SUBNORMAL = {torch.float32: 0.0, torch.float16: 2.0**-25, torch.bfloat16: 0.0}


def merged(x: Tensor) -> Tensor:
    """[rows, length, heads x size], as a projection leaves it, split into heads without a copy."""
    rows, heads, length, size = x.shape
    memory = x.new_empty(rows, length, heads * size)
    view = memory.unflatten(-1, (heads, size)).transpose(1, 2)
    return view.copy_(x)


def make_rows(shape: tuple, dtype=torch.float32, layout: Callable = merged) -> list[Tensor]:
    """Arguments in the order of NAMES of a seeded example; queries, keys and values of all rows are
    one tensor each."""
    sources, source_row, heads, positions, tokens, size = shape
    generator = torch.Generator().manual_seed(0)
    targets = len(source_row)

    def heads_of(rows: int, length: int) -> Tensor:
        return layout(torch.randn(rows, heads, length, size, generator=generator).to(dtype))

    q, k = heads_of(sources + targets, positions), heads_of(sources + targets, tokens)
    source_v, gained, mixed = (heads_of(rows, tokens) for rows in (sources, targets, targets))
    columns = torch.rand(3, targets, tokens, generator=generator)
    row = torch.tensor(source_row, dtype=torch.int64)
    return [
        q[sources:],
        k[sources:],
        gained,
        q[:sources],
        k[:sources],
        mixed,
        row,
        source_v,
        columns,
    ]


def call(*arguments: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The public call over positional arguments, as the kernel's launch takes them."""
    source_v, columns = (*arguments[7:], None, None)[:2]
    return edited_attention(*arguments[:7], source_v=source_v, columns=columns)


def map_and_error(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(q k^T / sqrt(d)) in float64 and a bound [R, H, N, 1] on the relative error of a
    float32 evaluation.

    u = 2^-23 bounds the error of one operation (matrix units truncate their sums). A score has d
    products, as many sums, its scaling, the rounded scale and the subtraction of the peak, all
    relative to A = sum |q k| / sqrt(d): an error of (d + 8) u A in the exponent, for the number
    above the fraction and for those below. To that come the exponentials (2 ulp each, twice), the
    sum of n of them, and the division.
    """
    q, k, scale, unit = q.double(), k.double(), k.shape[-1] ** -0.5, 2.0**-23
    size, tokens = q.shape[-1], k.shape[-2]
    magnitude = (q.abs() @ k.abs().mT * scale).amax(dim=-1, keepdim=True)
    return (q @ k.mT * scale).softmax(dim=-1), unit * (2 * (size + 8) * magnitude + tokens + 12)


def in_float64(q, k, gained, source_q, source_k, mixed, source_row, source_v=None, columns=None):
    """((out, bound), (maps, bound)): the formulas in float64 and bounds on an implementation's
    error.

    A map may be rounded to the values' dtype before its product with them, whose sums have n terms
    for each map, and the result is rounded to that dtype. Word maps stay float32 throughout: only
    their sums and the mean over the heads add to the error of the map.
    """
    dtype, heads, tokens, unit = q.dtype, q.shape[1], k.shape[2], 2.0**-23
    (P_s, error_s), (P_t, error_t) = map_and_error(source_q, source_k), map_and_error(q, k)
    own, error_own = P_s, error_s
    P_s, error_s = P_s[source_row], error_s[source_row]

    def product(*terms: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        result = sum(P @ v.double() for P, _, v in terms)
        more = ROUNDOFF[dtype] + 2 * (tokens + 1) * unit
        bound = sum((error + more) * (P @ v.double().abs()) for P, error, v in terms)
        lost = SUBNORMAL[dtype] * (
            1 + sum(v.double().abs().sum(dim=2, keepdim=True) for _, _, v in terms)
        )
        return result, 1.01 * bound + ROUNDOFF[dtype] * result.abs() + lost

    def word_map(*terms: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        weighted = [(P * column.double()[:, None, None], error) for P, error, column in terms]
        bound = sum((error + (2 * tokens + heads + 4) * unit) * w for w, error in weighted)
        return sum(w for w, _ in weighted).sum(-1).mean(1), 1.01 * bound.sum(-1).mean(1)

    outs = [product((P_s, error_s, mixed), (P_t, error_t, gained))]
    if source_v is not None:
        outs.insert(0, product((own, error_own, source_v)))
    maps = None
    if columns is not None:
        source_map = word_map((P_s, error_s, columns[0]))
        maps = stack(
            [source_map, word_map((P_s, error_s, columns[1]), (P_t, error_t, columns[2]))],
            torch.stack,
        )
    return stack(outs, torch.cat), maps


def stack(parts: list[tuple[Tensor, Tensor]], join: Callable) -> tuple[Tensor, Tensor]:
    results, bounds = zip(*parts, strict=True)
    return join(results), join(bounds)


def assert_within_rounding(actual: tuple[Tensor, Tensor | None], arguments: list[Tensor]) -> None:
    (out, maps), ((expected, bound), expected_maps) = actual, in_float64(*arguments)
    assert out.dtype == arguments[0].dtype and out.shape == expected.shape
    assert out.transpose(1, 2).is_contiguous()  # merging the heads is a view
    assert ((out.double() - expected).abs() <= bound).all()
    if expected_maps is None:
        assert maps is None or not maps.numel()
    else:
        assert maps.dtype == torch.float32 and maps.shape == expected_maps[0].shape
        assert ((maps.double() - expected_maps[0]).abs() <= expected_maps[1]).all()
