"""group_norm_silu on CPU, in Triton's interpreter and on a GPU, held to float64."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map_only

from csrc_triton.group_norm_silu import group_norm_silu
from csrc_triton.group_norm_silu.plan import Plan
from tests.csrc_triton.group_norm_silu.maps import (
    SHAPES,
    channels_last,
    contiguous,
    make_maps,
    sliced,
)

KERNEL = "csrc_triton.group_norm_silu.kernel"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.fixture
def norm(implementation: Callable) -> Callable[..., Tensor]:
    """The call in one of three ways; skip=None leaves it out."""
    op = implementation(group_norm_silu, KERNEL)
    return lambda x, weight, bias, groups, eps, skip=None, silu=True, shift=None: op(
        x, weight, bias, groups, eps, skip=skip, silu=silu, shift=shift
    )


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def planned(request: pytest.FixtureRequest) -> Callable[..., Tensor]:
    """The kernel under a plan of the test's own: the plans of small maps have few tiles a
    program."""
    pytest.importorskip("triton")
    from csrc_triton.group_norm_silu.kernel import launch

    def on_gpu(*args, **keywords):
        args, keywords = tree_map_only(Tensor, Tensor.cuda, (args, keywords))
        return launch(*args, **keywords).cpu()

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    run = (
        on_gpu if request.param == "cuda" else partial(request.getfixturevalue("interpret"), launch)
    )
    return lambda plan, x, weight, bias, groups, eps, skip=None, **more: run(
        x, weight, bias, groups, eps, skip=skip, planned=plan, **more
    )


@pytest.fixture
def kernel(request: pytest.FixtureRequest) -> bool:
    return request.node.callspec.params.get("implementation") != "cpu"


@pytest.fixture
def roundoff(request: pytest.FixtureRequest) -> dict[torch.dtype, float]:
    """Relative error of rounding to a dtype: half a unit in the last place, a whole one where bf16
    is truncated."""
    truncated = "interpreter" in request.node.callspec.params.values()
    return {
        torch.float32: 2.0**-24,
        torch.float16: 2.0**-11,
        torch.bfloat16: 2.0**-7 if truncated else 2.0**-8,
    }


def in_float64(x, weight, bias, groups, eps, skip=None, silu=True, *, kernel: bool, tiles: int = 1):
    """The formula in float64, and a bound on the error of the kernel, or of PyTorch, in float32.

    u = 2^-24. v - mean is off by at most d. The kernel sums deviations from a shift, whose mean
    size is at most (1 + tiles) that from the group's mean, through no more than K = 400 additions
    (256 pixels of a tile, 64 tiles, 80
    channels: the interpreter adds pixels one by one); what is rounded at the size of the mean
    itself is a channel's mean, a group's, and their union's with its correction: A = 4. PyTorch
    keeps a running mean, three roundings a step, of 16 steps in a chunk, 11 between chunks, 3
    between lanes, and scales v and mean apart: A = 80. The variance is off by 3 (1 + tiles) K u of
    itself (sum, square, the shift's own square taken off again) and, since means of parts are off
    by d, by 2 d of a deviation; its inverse root by half of that and 4 u. Then come two products
    and a sum. SiLU has a slope below 1.1, and exp of a rounded argument is off by |z| u; 12 u cover
    the rest of it.
    """
    u, K, A = 2.0**-24, 400, 4 if kernel else 80
    v = (x if skip is None else torch.cat([x, skip], dim=1)).double()
    weight, bias = weight.double()[:, None, None], bias.double()[:, None, None]
    grouped = v.unflatten(1, (groups, -1))
    average = lambda values: values.mean(dim=(2, 3, 4), keepdim=True)  # noqa: E731
    channel = lambda of_group: of_group.expand_as(grouped).flatten(1, 2)  # noqa: E731
    centred = grouped - average(grouped)
    scale = (average(centred.square()) + eps).rsqrt()
    d = A * u * average(grouped.abs()) + (1 + tiles) * K * u * average(centred.abs())
    relative = channel(1.5 * (1 + tiles) * K * u + d * scale + 6 * u)
    product = centred.flatten(1, 2) * channel(scale) * weight
    z = product + bias
    bound = (
        channel(d * scale) * weight.abs()
        + relative * product.abs()
        + u * (product.abs() + bias.abs())
    )
    if not silu:
        return z, bound
    return F.silu(z), 1.1 * bound + (z.abs() + 12) * u * F.silu(z).abs() + 2.0**-126


def assert_within_rounding(result: Tensor, arguments, roundoff, **options):
    x = arguments[0]
    expected, bound = in_float64(*arguments, **options)
    assert result.shape == expected.shape and result.dtype == x.dtype
    spacing = 2.0**-25 if x.dtype == torch.float16 else 0  # half of fp16's subnormal numbers'
    bound = bound + roundoff[x.dtype] * (expected.abs() + bound) + spacing
    assert ((result.double() - expected).abs() <= bound).all()


@pytest.mark.parametrize(
    ("dtype", "layout"),
    [("fp32", channels_last), ("bf16", channels_last), ("fp32", contiguous), ("fp16", sliced)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_result_is_within_rounding_of_float64(norm, kernel, roundoff, shape, dtype, layout):
    arguments = make_maps(shape, DTYPES[dtype], layout)
    assert_within_rounding(norm(*arguments), arguments, roundoff, kernel=kernel)


@pytest.mark.parametrize("shape", ["10-deep-straddling", "two-launches"])
def test_silu_can_be_left_out(norm, kernel, roundoff, shape):
    arguments = [*make_maps(SHAPES[shape]), False]
    assert_within_rounding(norm(*arguments), arguments, roundoff, kernel=kernel)


@pytest.mark.parametrize("shape", ["10-deep-straddling", "two-launches-straddling"])
def test_a_large_mean_costs_no_variance(norm, kernel, roundoff, shape):
    """At a thousand deviations a variance in one pass is off by a quarter and more: tens of times
    the bound here."""
    arguments = [*make_maps(SHAPES[shape], mean=1000), False]
    assert_within_rounding(norm(*arguments), arguments, roundoff, kernel=kernel)


# Of 143 pixels the last tile of 16 lacks one; of 6 groups of 10 channels the second block of 4 has
# two.
PLANS = {
    "tiles-in-both": Plan(width=40, block=64, tile=16, chunk=3, share=2, warps=4),
    "ragged-chunk": Plan(width=40, block=64, tile=128, chunk=1, share=1, warps=4),
    "one-chunk": Plan(width=40, block=64, tile=16, chunk=9, share=9, warps=4),
    "one-launch": Plan(width=20, block=32, tile=256, chunk=0, share=1, warps=4),
    "read-twice": Plan(width=20, block=32, tile=16, chunk=0, share=9, warps=4),
}


@pytest.mark.parametrize("layout", [channels_last, sliced], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("name", PLANS)
def test_every_plan_gives_the_same_norm(planned, roundoff, name, layout):
    arguments = make_maps((1, 36, 24, 11, 13, 6), layout=layout, mean=30)
    result = planned(PLANS[name], *arguments)
    assert_within_rounding(result, arguments, roundoff, kernel=True)


@pytest.mark.parametrize("name", ["one-chunk", "read-twice"])
def test_a_first_tile_unlike_the_others_costs_little(planned, roundoff, name):
    """The shift is then far from the mean, and n = 9 tiles a chunk may cost a factor of 9: the
    bound has it."""
    arguments = make_maps((1, 60, 0, 11, 13, 6))
    arguments[0].permute(0, 2, 3, 1).flatten(1, 2)[:, :16] += 1e4
    result = planned(PLANS[name], *arguments)
    assert_within_rounding(result, arguments, roundoff, kernel=True, tiles=9)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("mean", [0.5, 1000.0])
def test_the_kernel_is_as_exact_as_pytorch(planned, mean, name):
    """In the root mean square over a map, against PyTorch's own float32 GroupNorm of the contiguous
    map."""
    x, weight, bias, groups, eps, skip = make_maps((1, 36, 24, 11, 13, 6), mean=mean)
    exact, _ = in_float64(x, weight, bias, groups, eps, skip, kernel=True)
    error = lambda result: (result.double() - exact).square().mean().sqrt()  # noqa: E731
    ours = planned(PLANS[name], x, weight, bias, groups, eps, skip)
    assert error(ours) <= 1.5 * error(group_norm_silu(x, weight, bias, groups, eps, skip=skip))


@pytest.mark.parametrize("value", [3.0, 0.1, -50_000.0])
@pytest.mark.parametrize("shape", ["10-deep-straddling", "two-launches"])
def test_equal_values_are_normed_to_the_bias(norm, kernel, roundoff, shape, value):
    """Exactly so by the kernel, which corrects its means; PyTorch's rounding of a mean shows, times
    1 / sqrt(eps)."""
    arguments = [*make_maps(SHAPES[shape]), False]
    for tensor in (arguments[0], arguments[5]):
        if tensor is not None:
            tensor.fill_(value)
    result = norm(*arguments)
    if kernel:
        assert torch.equal(result, arguments[2][:, None, None].expand_as(result))
    assert_within_rounding(result, arguments, roundoff, kernel=kernel)


@pytest.mark.parametrize("shape", ["10-deep-straddling", "two-launches"])
def test_values_near_the_largest_of_fp16_do_not_overflow(norm, kernel, roundoff, shape):
    arguments = make_maps(SHAPES[shape], torch.float16)
    for tensor in (arguments[0], arguments[5]):
        if tensor is not None:
            tensor.copy_(torch.where(tensor > 0.5, 65504.0, -60000.0))
    result = norm(*arguments)
    assert result.isfinite().all()
    assert_within_rounding(result, arguments, roundoff, kernel=kernel)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_parameters_may_have_the_dtype_of_x(norm, kernel, roundoff, dtype):
    x, weight, bias, groups, eps, skip = make_maps(SHAPES["10-deep-straddling"], dtype)
    arguments = [x, weight.to(dtype), bias, groups, eps, skip]
    assert_within_rounding(norm(*arguments), arguments, roundoff, kernel=kernel)


def test_x_and_skip_may_differ_in_layout(norm, kernel, roundoff):
    x, weight, bias, groups, eps, skip = make_maps(SHAPES["10-deep-straddling"])
    for layouts in ((contiguous, channels_last), (channels_last, sliced), (sliced, contiguous)):
        arguments = [layouts[0](x), weight, bias, groups, eps, layouts[1](skip)]
        assert_within_rounding(norm(*arguments), arguments, roundoff, kernel=kernel)


def test_values_may_be_shared_between_rows_and_pixels(norm, kernel, roundoff):
    x, *others, _ = make_maps(SHAPES["10-deep"])
    arguments = [x[:1, :, :1].expand_as(x), *others]
    assert_within_rounding(norm(*arguments), arguments, roundoff, kernel=kernel)


@pytest.mark.parametrize(
    "shape", [(2, 36, 24, 3, 5, 6), (1, 1200, 0, 5, 17, 2)], ids=["one-launch", "two-launches"]
)
def test_groups_and_rows_do_not_meet(norm, shape):
    """They share programs: what is not finite in one must not reach its neighbours."""
    arguments = make_maps(shape)
    depth = len(arguments[1]) // shape[-1]
    clean = norm(*arguments)
    x = arguments[0].clone()
    x[0, depth, 0, 0], x[1:, 3] = torch.nan, torch.inf
    beside = norm(x, *arguments[1:])
    spoiled = torch.zeros(clean.shape[:2], dtype=torch.bool)
    spoiled[0, depth : 2 * depth] = spoiled[1:, :depth] = True
    assert torch.equal(clean[~spoiled], beside[~spoiled])
    assert beside[spoiled].isnan().all()


def test_runs_are_identical(norm):
    arguments = make_maps(SHAPES["two-launches-straddling"])
    assert torch.equal(norm(*arguments), norm(*arguments))


@pytest.mark.parametrize(
    "shape", [(0, 8, 4, 3, 3, 3), (2, 8, 4, 0, 3, 3)], ids=["no-rows", "no-pixels"]
)
def test_nothing_to_do_is_no_error(norm, shape):
    assert norm(*make_maps(shape)).shape == (shape[0], 12, *shape[3:5])


def test_inputs_are_left_alone(norm):
    arguments = make_maps(SHAPES["10-deep-straddling"])
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    before = [tensor.clone() for tensor in tensors]
    norm(*arguments)
    assert all(map(torch.equal, tensors, before))


@pytest.mark.parametrize("joined", [False, True], ids=["alone", "skip"])
@pytest.mark.parametrize(
    "layout", [contiguous, channels_last, sliced], ids=lambda layout: layout.__name__
)
def test_the_result_is_channels_last_from_the_kernel_and_as_x_lies_from_the_reference(
    norm, kernel, layout, joined
):
    arguments = make_maps(
        SHAPES["10-deep-straddling" if joined else "10-deep"], torch.float16, layout
    )
    expected = torch.channels_last if kernel or layout is channels_last else torch.contiguous_format
    assert norm(*arguments).is_contiguous(memory_format=expected)
