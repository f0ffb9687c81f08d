"""edited_attention on CPU, in Triton's interpreter and on a GPU, held to float64."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.csrc_triton.edited_attention.rows import (
    SHAPES,
    assert_within_rounding,
    call,
    in_float64,
    make_rows,
    merged,
)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def one_of_three(x: Tensor) -> Tensor:
    """The same, where the projection is q, k and v at once; the first element is not aligned to 16
    bytes either."""
    return merged(torch.cat([x + 1, x, x - 1], dim=-1))[..., x.shape[-1] : 2 * x.shape[-1]]


def spread(x: Tensor) -> Tensor:
    """Channels apart in memory: nothing a kernel reads in place."""
    return torch.stack([x, x + 1], dim=-1).flatten(-2)[..., ::2]


@pytest.fixture
def attend(implementation: Callable) -> Callable[..., tuple[Tensor, Tensor | None]]:
    return implementation(call, "csrc_triton.edited_attention.kernel")


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_result_is_within_rounding_of_float64(attend, shape, dtype):
    arguments = make_rows(shape, dtype)
    assert_within_rounding(attend(*arguments), arguments)


@pytest.mark.parametrize("given", [7, 8], ids=["no-source-values", "no-columns"])
@pytest.mark.parametrize("shape", ["sd-40", "64-permuted", "odd-sources-without-target"])
def test_sources_and_maps_are_left_out_where_not_asked_for(attend, shape, given):
    arguments = make_rows(SHAPES[shape], torch.float16)[:given]
    assert_within_rounding(attend(*arguments), arguments)


def test_maps_without_source_values(attend):
    arguments = make_rows(SHAPES["64-permuted"])
    arguments[7] = None
    assert_within_rounding(attend(*arguments), arguments)


@pytest.mark.parametrize(
    "layout", [torch.clone, one_of_three, spread], ids=lambda layout: layout.__name__
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
def test_inputs_may_lie_in_memory_anyhow(attend, dtype, layout):
    arguments = make_rows((1, (0,), 3, 4, 8, 20), dtype, layout)
    arguments[8] = arguments[8].flip(1).mT.contiguous().mT
    assert_within_rounding(attend(*arguments), arguments)


def test_inputs_may_lie_in_memory_each_its_own_way(attend):
    q, k, gained, source_q, *others = make_rows((2, (1,), 2, 4, 8, 20), layout=torch.clone)
    arguments = [
        merged(q),
        one_of_three(k),
        spread(gained),
        source_q[:1].expand_as(source_q),
        *others,
    ]
    assert_within_rounding(attend(*arguments), arguments)


def test_no_replacement_is_ordinary_attention(attend):
    """S = 0 and d = 1: both rows are what PyTorch's attention says.

    Two float32 evaluations, so twice the bound.
    """
    arguments = make_rows(SHAPES["sd-40"])
    q, k, v, source_q, source_k, mixed, _, source_v, _ = arguments
    arguments[5] = torch.zeros_like(mixed)
    out, _ = attend(*arguments)
    stock = F.scaled_dot_product_attention(
        torch.cat([source_q, q]), torch.cat([source_k, k]), torch.cat([source_v, v])
    )
    assert ((out - stock).abs() <= 2 * in_float64(*arguments)[0][1]).all()


def test_full_replacement_gives_both_rows_the_source_map(attend):
    """S = 1 and d = 0 with equal values: the target's row is the source's, whatever the target's
    own queries say."""
    arguments = make_rows(SHAPES["sd-40"])
    arguments[2], arguments[5] = torch.zeros_like(arguments[2]), arguments[7]
    (source, target), _ = attend(*arguments)
    torch.testing.assert_close(target, source, rtol=0, atol=1e-6)


def test_maps_of_all_words_are_all_attention(attend):
    """Rows of a map sum to 1, so columns of ones give 1, and shares c and 1 - c of two maps give 1
    as well."""
    arguments = make_rows(SHAPES["64-permuted"])
    arguments[8] = torch.tensor([1.0, 0.25, 0.75])[:, None, None].expand_as(arguments[8])
    _, maps = attend(*arguments)
    torch.testing.assert_close(maps, torch.ones_like(maps), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
def test_scores_beyond_the_range_of_exp_pick_one_token(attend, dtype):
    """Scores of hundreds, in float16 too, where exp ends at 11."""
    arguments = make_rows((1, (0,), 1, 4, 20, 16), dtype)
    arguments[0], arguments[3] = arguments[0] * 64, arguments[3] * 64
    out, maps = attend(*arguments)
    assert out.isfinite().all() and maps.isfinite().all()
    assert_within_rounding((out, maps), arguments)


def test_rows_and_heads_do_not_meet(attend):
    """A row that is not finite spoils itself and the targets of its own map, no other."""
    arguments = make_rows((2, (1, 0), 2, 3, 8, 16))
    spoiled = [argument.clone() for argument in arguments]
    # Source 0, head 1, position 2: source row 0 and target 1, row 3 of out
    spoiled[3][0, 1, 2] = torch.nan
    (clean, _), (beside, _) = attend(*arguments), attend(*spoiled)
    hit = torch.zeros_like(clean, dtype=torch.bool)
    hit[[0, 3], 1, 2] = True
    assert beside[hit].isnan().all() and torch.equal(beside[~hit], clean[~hit])


@pytest.mark.parametrize(
    "shape", [(1, (0,), 2, 0, 8, 16), (0, (), 2, 5, 8, 16)], ids=["no-positions", "no-rows"]
)
def test_nothing_to_do_is_no_error(attend, shape):
    out, maps = attend(*make_rows(shape))
    assert out.shape == (shape[0] + len(shape[1]), 2, shape[3], 16) and maps.shape == (
        2,
        len(shape[1]),
        shape[3],
    )


def test_inputs_are_left_alone_and_results_repeat(attend):
    arguments = make_rows(SHAPES["64-permuted"])
    before = [argument.clone() for argument in arguments]
    first, again = attend(*arguments), attend(*arguments)
    assert all(map(torch.equal, first, again))
    assert all(map(torch.equal, arguments, before))
