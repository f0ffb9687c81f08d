"""layer_norm on CPU, in Triton's interpreter and on a GPU, held to float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from csrc_triton.layer_norm import layer_norm
from tests.csrc_triton.layer_norm.rows import channels_first, contiguous, make_rows

# The embedded model's and Stable Diffusion's widths; CLIP's 77 fills no block, and its rows no
# program; the widest row.
SHAPES = {
    "64": (2, 40, 64),
    "77": (3, 7, 77),
    "320": (2, 9, 320),
    "1280": (3, 1280),
    "8192": (2, 1, 8192),
    "one-channel": (4, 1),
    "one-row": (33,),
}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def columns(x: Tensor) -> Tensor:
    """A part of wider rows, as one of several outputs of a fused projection is."""
    return torch.cat([x + 1, x], dim=-1)[..., x.shape[-1] :]


@pytest.fixture
def norm(implementation: Callable) -> Callable[..., tuple[Tensor, Tensor]]:
    """The call in one of three ways; residual=None leaves it out."""
    op = implementation(layer_norm, "csrc_triton.layer_norm.kernel")
    return lambda x, weight, bias, eps, residual=None, **more: op(
        x, weight, bias, eps, residual=residual, **more
    )


@pytest.fixture
def roundoff(request: pytest.FixtureRequest) -> dict[torch.dtype, float]:
    """Relative error of rounding to a dtype: half a unit in the last place, a whole one where bf16
    is truncated."""
    truncated = request.node.callspec.params["implementation"] == "interpreter"
    return {
        torch.float32: 2.0**-24,
        torch.float16: 2.0**-11,
        torch.bfloat16: 2.0**-7 if truncated else 2.0**-8,
    }


def rounding(exact: Tensor, dtype: torch.dtype, roundoff: dict) -> Tensor:
    """Error of rounding float64 values to dtype; 2^-25 is half the spacing of fp16's subnormal
    numbers."""
    return roundoff[dtype] * exact.abs() + (2.0**-25 if dtype == torch.float16 else 0)


def in_float64(s: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """LayerNorm of s in float64, and a bound on the error of a float32 evaluation in two passes.

    u = 2^-24. No element goes through more than K = 80 roundings in a sum of 8192 channels: the
    kernel needs 16 in a thread and 9 between threads; PyTorch keeps a running mean, three roundings
    a step, of 16 steps in a chunk, 6 between chunks and 3 between lanes. So the mean is off by at
    most d = K u mean|s|; the variance by (K + 7) u of itself (2 for differences, 1 for squares, 4
    for a division good to 2 units in the last place) and by d^2, as deviations add up to 0; its
    inverse root by half of that and 4.5 u (2 units again, and adding eps). Difference and products
    round once each, and so does adding the bias.
    """
    u, K = 2.0**-24, 80
    s, weight, bias = s.double(), weight.double(), bias.double()
    mean = s.mean(dim=-1, keepdim=True)
    variance = (s - mean).square().mean(dim=-1, keepdim=True)
    scale = (variance + eps).rsqrt()
    product = (s - mean) * scale * weight
    d = K * u * s.abs().mean(dim=-1, keepdim=True)
    relative = (K / 2 + 8) * u + (d * scale) ** 2 / 2
    bound = (
        d * scale * weight.abs()
        + (relative + 3 * u) * product.abs()
        + u * (product.abs() + bias.abs())
    )
    return product + bias, bound


def assert_within_rounding(outputs, arguments, roundoff):
    """The sum against float64, then normed against float64 of the very sum that came out: two
    bounds, no chain."""
    x, weight, bias, eps, residual = arguments
    total, normed = outputs
    assert total.shape == normed.shape == x.shape and total.dtype == normed.dtype == x.dtype
    if residual is None:
        assert torch.equal(total, x)
    else:
        exact = x.double() + residual.double()
        # Added in float32 first
        bound = rounding(exact, x.dtype, roundoff) + 2.0**-24 * exact.abs()
        assert ((total.double() - exact).abs() <= bound).all()
    expected, bound = in_float64(total, weight, bias, eps)
    assert (
        (normed.double() - expected).abs() <= bound + rounding(expected, x.dtype, roundoff)
    ).all()


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", ["77", "320"])
def test_what_is_carried_is_in_the_sum_and_not_in_the_norm(norm, roundoff, shape, dtype):
    arguments = make_rows(SHAPES[shape], dtype, contiguous)
    carry = torch.linspace(-2, 2, SHAPES[shape][-1]).to(dtype)
    plain, normed = norm(*arguments)
    total, same = norm(*arguments, carry=carry)
    assert torch.equal(same, normed)
    exact = plain.double() + carry.double()
    bound = rounding(exact, dtype, roundoff) + 2.0**-24 * exact.abs()
    assert ((total.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("given", ["alone", "residual"])
@pytest.mark.parametrize(
    "layout", [contiguous, columns, channels_first], ids=lambda layout: layout.__name__
)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_results_are_within_rounding_of_float64(norm, roundoff, shape, dtype, layout, given):
    arguments = make_rows(shape, dtype, layout)
    arguments[4] = arguments[4] if given == "residual" else None
    assert_within_rounding(norm(*arguments), arguments, roundoff)


@pytest.mark.parametrize("given", ["alone", "residual"])
def test_a_large_mean_costs_no_variance(norm, roundoff, given):
    """At a thousand deviations a variance in one pass is off by a quarter and more: tens of times
    the bound here."""
    arguments = make_rows((2, 9, 320), mean=1000)
    arguments[4] = arguments[4] if given == "residual" else None
    assert_within_rounding(norm(*arguments), arguments, roundoff)


def test_equal_channels_have_no_variance(norm, roundoff):
    """Only eps is under the root then: rounding of the mean is magnified 300 times, and the bound
    knows."""
    _, *parameters, _ = make_rows((5, 77))
    arguments = [torch.arange(5.0)[:, None].expand(5, 77), *parameters, None]
    assert_within_rounding(norm(*arguments), arguments, roundoff)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_parameters_may_have_the_dtype_of_x(norm, roundoff, dtype):
    x, weight, bias, eps, residual = make_rows((2, 9, 320), dtype)
    arguments = [x, weight.to(dtype), bias.to(dtype), eps, residual]
    assert_within_rounding(norm(*arguments), arguments, roundoff)


@pytest.mark.parametrize(
    "layout", [contiguous, columns, channels_first], ids=lambda layout: layout.__name__
)
def test_x_and_residual_may_differ_in_layout(norm, roundoff, layout):
    x, *parameters, residual = make_rows((2, 9, 77))
    for arguments in (
        [layout(x), *parameters, columns(residual)],
        [columns(x), *parameters, layout(residual)],
    ):
        assert_within_rounding(norm(*arguments), arguments, roundoff)


def test_rows_do_not_meet(norm):
    """Rows share a program: what is not finite in one must not reach its neighbours."""
    x, weight, bias, eps, residual = make_rows((7, 77))
    spoiled = x.clone()
    spoiled[3, 5], spoiled[4] = torch.nan, torch.inf
    kept = [0, 1, 2, 5, 6]
    clean, beside = norm(x, weight, bias, eps, residual), norm(spoiled, weight, bias, eps, residual)
    assert all(torch.equal(a[kept], b[kept]) for a, b in zip(clean, beside, strict=True))
    assert beside[1][3:5].isnan().all()


@pytest.mark.parametrize("shape", [(0, 64), (2, 0, 64)], ids=["no-rows", "no-tokens"])
@pytest.mark.parametrize("given", ["alone", "residual"])
def test_nothing_to_do_is_no_error(norm, shape, given):
    x, weight, bias, eps, residual = make_rows(shape)
    total, normed = norm(x, weight, bias, eps, residual if given == "residual" else None)
    assert total.shape == normed.shape == shape


def test_inputs_are_left_alone(norm):
    arguments = make_rows((2, 9, 77))
    before = [argument.clone() for argument in arguments if isinstance(argument, Tensor)]
    norm(*arguments)
    assert all(
        map(
            torch.equal,
            (argument for argument in arguments if isinstance(argument, Tensor)),
            before,
        )
    )
