"""What group norms add before they norm: a shift of channels, and a residual whose sum comes back, held
to float64 of the sum, as `test_values` does."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from csrc_triton.group_norm_silu import add_group_norm, group_norm_silu
from csrc_triton.group_norm_silu.plan import Plan
from tests.csrc_triton.group_norm_silu.maps import SHAPES, channels_last, contiguous, make_maps
from tests.csrc_triton.group_norm_silu.test_values import (
    DTYPES,
    KERNEL,
    assert_within_rounding,
    kernel,  # noqa: F401  a fixture
    roundoff,  # noqa: F401
)

SUMMED = ["10-deep", "one-pixel", "two-launches"]


@pytest.fixture
def norm(implementation: Callable) -> Callable[..., Tensor]:
    return implementation(group_norm_silu, KERNEL)


@pytest.fixture
def add_norm(implementation: Callable) -> Callable[..., tuple[Tensor, Tensor]]:
    return implementation(add_group_norm, KERNEL, "launch_sum")


def make(shape: str, dtype: torch.dtype, layout: Callable = channels_last) -> list:
    """x in sixteenths below 2, a shift in quarters and a residual in eighths below 8, so that all sums
    are exact in every dtype; weight, bias, groups, eps."""
    x, weight, bias, groups, eps, _ = make_maps(SHAPES[shape], dtype, layout)
    weight, bias = weight[: x.shape[1]], bias[: x.shape[1]]
    x = layout((x * 4).round().clamp(-16, 16) / 16)
    rows, channels = x.shape[:2]
    shift = (torch.arange(rows * channels).view(rows, channels) % 17 - 5).to(dtype) / 4
    residual = layout((x.flip(1) * 16).round() / 8)
    return [x, residual, shift, weight, bias, channels // 2 if channels < 40 else groups, eps]


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", SUMMED)
def test_a_shift_is_added_first(norm, kernel, roundoff, shape, dtype):  # noqa: F811
    x, _, shift, *others = make(shape, dtype)
    shifted = [x + shift[:, :, None, None], *others]
    result = norm(x, *others, skip=None, silu=True, shift=shift)
    assert_within_rounding(result, shifted, roundoff, kernel=kernel)


def test_a_shift_may_be_one_for_all_rows(norm, kernel, roundoff):  # noqa: F811
    x, _, shift, *others = make("10-deep", torch.float32)
    one = shift[:1].expand_as(shift)
    result = norm(x, *others, skip=None, silu=True, shift=one)
    assert_within_rounding(result, [x + one[:, :, None, None], *others], roundoff, kernel=kernel)


@pytest.mark.parametrize("layout", [channels_last, contiguous], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", SUMMED)
def test_a_residual_is_added_first_and_comes_back(
    add_norm,
    kernel,  # noqa: F811
    roundoff,  # noqa: F811
    shape,
    dtype,
    layout,
):
    x, residual, shift, *others = make(shape, dtype, layout)
    whole = x + residual + shift[:, :, None, None]
    carry = shift[0]
    total, normed = add_norm(x, residual, *others, shift=shift, carry=carry)
    assert torch.equal(total, whole + carry[:, None, None])
    assert_within_rounding(normed, [whole, *others, None, False], roundoff, kernel=kernel)
    plain, same = add_norm(x, residual, *others)
    assert torch.equal(plain, x + residual)
    assert_within_rounding(same, [x + residual, *others, None, False], roundoff, kernel=kernel)


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("added", ["shift", "residual", "both"])
def test_a_sum_is_normed_beside_a_skip(add_norm, kernel, roundoff, dtype, added, silu):  # noqa: F811
    x, residual, shift, *others = make("10-deep", dtype)
    skip = x.flip(2)[:, ::2]
    weight, bias = (torch.cat([own, own[::2]]) for own in others[:2])
    others = [weight, bias, others[2] * 3 // 2, others[3]]
    given = {"shift": None if added == "residual" else shift}
    residual = None if added == "shift" else residual
    whole = x + (0 if residual is None else residual)
    whole = whole + (0 if given["shift"] is None else shift[:, :, None, None])
    total, normed = add_norm(x, residual, *others, skip=skip, silu=silu, carry=shift[1], **given)
    assert torch.equal(total, whole + shift[1][:, None, None])
    assert_within_rounding(normed, [whole, *others, skip, silu], roundoff, kernel=kernel)


@pytest.mark.parametrize("chunk", [2, 0], ids=["two-launches", "alone"])
def test_programs_of_several_tiles_add_in_each(interpret, chunk):
    x, residual, shift, *others = make("10-deep", torch.float32)
    pytest.importorskip("triton")
    from csrc_triton.group_norm_silu.kernel import launch

    plan = Plan(width=40, block=64, tile=16, chunk=chunk, share=3, warps=4)
    added = {"shift": shift, "residual": residual, "carry": shift[0], "sums": True}
    total, normed = interpret(launch, x, *others, silu=False, planned=plan, **added)
    whole = x + residual + shift[:, :, None, None]
    assert torch.equal(total, whole + shift[0][:, None, None])
    arguments = [whole, *others, None, False]
    assert_within_rounding(normed, arguments, {torch.float32: 2.0**-24}, kernel=True)


def test_the_operator_is_registered_soundly():
    x, residual, shift, *others = make("10-deep", torch.bfloat16)
    arguments = (x, residual, *others, shift, shift[0])
    torch.library.opcheck(torch.ops.icd.add_group_norm.default, arguments)


@pytest.mark.parametrize("name", ["residual", "shift", "carry"])
def test_what_does_not_fit_is_refused_by_name(name):
    x, residual, shift, *others = make("10-deep", torch.float32)
    given = {"residual": residual, "shift": shift, "carry": shift[0]}
    with pytest.raises(ValueError, match=rf"^{name} must be"):
        _call(x, others, **given | {name: given[name][..., 1:]})
    with pytest.raises(TypeError, match=rf"^{name} must be"):
        _call(x, others, **given | {name: given[name].half()})


def _call(x: Tensor, others: list, residual: Tensor, **more: Tensor) -> tuple[Tensor, Tensor]:
    return add_group_norm(x, residual, *others, **more)
