"""group_norm_silu on CPU, in Triton's interpreter and on a GPU, held to float64; dispatch, export
and refusals."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from csrc_triton.group_norm_silu import group_norm_silu
from csrc_triton.group_norm_silu.plan import MOST_CHUNKS, SMS, Plan, plan
from csrc_triton.group_norm_silu.reference import group_norm_silu_reference

KERNEL = "csrc_triton.group_norm_silu.kernel"
OPERATOR = torch.ops.icd.group_norm_silu.default
# B, channels of x, channels of skip, H, W, groups. Groups of 10, 30 and 80 channels as Stable
# Diffusion's, which fill no power of 2; odd sizes; borders of x and skip inside a group; the last
# ones are too large for one launch.
SHAPES = {
    "10-deep": (2, 40, 0, 5, 7, 4),
    "10-deep-straddling": (1, 36, 24, 9, 13, 6),
    "30-deep-straddling": (2, 47, 43, 3, 5, 3),
    "80-deep-straddling": (1, 100, 60, 4, 4, 2),
    "one-group": (1, 96, 32, 8, 8, 1),
    "one-channel-groups": (1, 4, 3, 5, 3, 7),
    "one-pixel": (2, 20, 12, 1, 1, 4),
    "one-line": (1, 8, 4, 1, 33, 3),
    "one-column": (1, 8, 4, 33, 1, 3),
    "two-launches": (1, 600, 0, 5, 7, 2),
    "two-launches-straddling": (1, 400, 200, 5, 7, 2),
}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def sliced(x: Tensor) -> Tensor:
    """Gaps along every axis, as a view into something larger has them."""
    return F.pad(x, (1, 2, 1, 0, 2, 3))[:, 2 : x.shape[1] + 2, 1:, 1 : x.shape[3] + 1]


def make_maps(
    shape: tuple[int, ...], dtype=torch.float32, layout: Callable = channels_last, mean: float = 0.5
):
    """x, weight, bias, groups, eps, skip of a seeded example; float32 parameters."""
    rows, *channels, height, width, groups = shape
    generator = torch.Generator().manual_seed(0)
    x, skip = (
        layout((torch.randn(rows, c, height, width, generator=generator) + mean).to(dtype))
        for c in channels
    )
    weight, bias = (torch.randn(sum(channels), generator=generator) for _ in range(2))
    return [x, weight, bias, groups, 1e-5, skip if channels[1] else None]


@pytest.fixture
def norm(implementation: Callable) -> Callable[..., Tensor]:
    """The call in one of three ways; skip=None leaves it out."""
    op = implementation(group_norm_silu, KERNEL)
    return lambda x, weight, bias, groups, eps, skip=None, silu=True: op(
        x, weight, bias, groups, eps, skip=skip, silu=silu
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
    return lambda plan, x, weight, bias, groups, eps, skip=None: run(
        x, weight, bias, groups, eps, skip=skip, planned=plan
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
}


@pytest.mark.parametrize("layout", [channels_last, sliced], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("name", PLANS)
def test_every_plan_gives_the_same_norm(planned, roundoff, name, layout):
    arguments = make_maps((1, 36, 24, 11, 13, 6), layout=layout, mean=30)
    result = planned(PLANS[name], *arguments)
    assert_within_rounding(result, arguments, roundoff, kernel=True)


def test_a_first_tile_unlike_the_others_costs_little(planned, roundoff):
    """The shift is then far from the mean, and n = 9 tiles a chunk may cost a factor of 9: the
    bound has it."""
    arguments = make_maps((1, 60, 0, 11, 13, 6))
    arguments[0].permute(0, 2, 3, 1).flatten(1, 2)[:, :16] += 1e4
    result = planned(PLANS["one-chunk"], *arguments)
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
    "shape", [(2, 36, 24, 3, 5, 6), SHAPES["two-launches"]], ids=["one-launch", "two-launches"]
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


def test_the_reference_of_a_contiguous_fp32_map_copies_nothing():
    computed = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            computed.append(func.name())
            return func(*args, **(kwargs or {}))

    arguments = make_maps(SHAPES["10-deep"], layout=contiguous)
    with torch.no_grad(), Record():
        group_norm_silu(*arguments[:5])
    assert computed == ["aten::native_group_norm", "aten::silu"]


def of_operator(arguments: list) -> tuple:
    """What the registered operator takes: all by position."""
    return *arguments, True


@pytest.mark.parametrize(
    "layout", [contiguous, channels_last, sliced], ids=lambda layout: layout.__name__
)
@pytest.mark.parametrize("shape", ["10-deep", "10-deep-straddling", "one-pixel"])
def test_operator_is_registered_soundly(shape, layout):
    torch.library.opcheck(OPERATOR, of_operator(make_maps(SHAPES[shape], torch.bfloat16, layout)))


@pytest.mark.parametrize("gradients", [False, True], ids=["gradients-off", "gradients-on"])
def test_cuda_takes_the_operator_only_with_gradients_off(gradients):
    """Traced on tensors that only say they are on a GPU, so that this holds where there is none."""
    with FakeTensorMode():
        arguments = tree_map_only(
            Tensor,
            partial(torch.empty_like, device="cuda"),
            make_maps(SHAPES["10-deep-straddling"], layout=contiguous),
        )

    def call(x, weight, bias, skip):
        return group_norm_silu(x, weight, bias, *arguments[3:5], skip=skip)

    with torch.set_grad_enabled(gradients):
        traced = make_fx(call)(*arguments[:3], arguments[5])
    assert (OPERATOR in {node.target for node in traced.graph.nodes}) == (not gradients)
    if not gradients:
        (result,) = traced.graph.find_nodes(op="call_function", target=OPERATOR)
        assert result.meta["val"].is_contiguous(memory_format=torch.channels_last)


def test_gradients_reach_every_input():
    """Those of PyTorch's own GroupNorm and SiLU."""

    def gradients(call: Callable) -> tuple[Tensor, ...]:
        x, weight, bias, groups, eps, skip = make_maps(SHAPES["10-deep-straddling"])
        inputs = [tensor.requires_grad_() for tensor in (x, weight, bias, skip)]
        return torch.autograd.grad(call(x, weight, bias, groups, eps, skip).square().sum(), inputs)

    ours = gradients(
        lambda x, weight, bias, groups, eps, skip: group_norm_silu(
            x, weight, bias, groups, eps, skip=skip
        )
    )
    stock = gradients(
        lambda x, w, b, groups, eps, skip: F.silu(
            F.group_norm(torch.cat([x, skip], 1), groups, w, b, eps)
        )
    )
    torch.testing.assert_close(ours, stock)


@pytest.mark.parametrize("layout", [contiguous, channels_last], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("shape", ["10-deep", "10-deep-straddling"])
def test_compiles_whole_and_once_for_all_values(shape, layout):
    """Without inductor, which needs a C++ compiler."""
    compiled = torch.compile(group_norm_silu, fullgraph=True, backend="aot_eager")
    x, weight, bias, groups, eps, skip = make_maps(SHAPES[shape], torch.bfloat16, layout)
    result, expected = (
        call(x, weight, bias, groups, eps, skip=skip) for call in (compiled, group_norm_silu)
    )
    assert torch.equal(result, expected) and result.stride() == expected.stride()
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled(
            x * 0.5, weight * 2, bias + 1, groups, eps, skip=skip if skip is None else skip - 1
        )


class Norm(torch.nn.Module):
    def forward(self, x, skip, weight, bias):
        return group_norm_silu(x, weight, bias, 6, 1e-5, skip=skip)


class Operator(torch.nn.Module):
    def forward(self, x, skip, weight, bias):
        return torch.ops.icd.group_norm_silu(x, weight, bias, 6, 1e-5, skip, True)


def exported(
    module: torch.nn.Module, **options
) -> tuple[torch.export.ExportedProgram, tuple[Tensor, ...]]:
    x, weight, bias, *_, skip = make_maps((2, 36, 24, 9, 13, 6), layout=contiguous)
    return torch.export.export(module, (x, skip, weight, bias), **options), (x, skip, weight, bias)


def operators(program: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def test_exports_as_plain_pytorch():
    program, arguments = exported(Norm())
    assert all(name.startswith("aten.") for name in operators(program))
    assert torch.equal(program.module()(*arguments), Norm()(*arguments))


def test_exports_for_all_sizes_of_a_map():
    rows, height, width = map(torch.export.Dim, ("rows", "height", "width"))
    sizes = {0: rows, 2: height, 3: width}
    program, _ = exported(Norm(), dynamic_shapes=(sizes, sizes, None, None))
    x, weight, bias, *_, skip = make_maps((3, 36, 24, 8, 5, 6), layout=contiguous)
    assert torch.equal(program.module()(x, skip, weight, bias), Norm()(x, skip, weight, bias))


def test_the_operator_exports_and_decomposes_to_the_reference():
    program, arguments = exported(Operator())
    assert operators(program) == ["icd.group_norm_silu.default"]

    def decomposed(x, weight, bias, groups, eps, skip, silu):
        return group_norm_silu_reference(x, weight, bias, groups, eps, skip=skip, silu=silu)

    plain = program.run_decompositions({OPERATOR: decomposed})

    assert "icd.group_norm_silu.default" not in operators(plain)
    torch.testing.assert_close(plain.module()(*arguments), Norm()(*arguments))


def test_cpu_needs_no_triton():
    """Neither the public call nor the registered operator."""
    code = (
        "import sys; sys.modules['triton'] = None; import torch;"
        "from csrc_triton.group_norm_silu import group_norm_silu;"
        "x = torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1); one = torch.ones(2);"
        "y = group_norm_silu(x, one, one, 1, 0.0, silu=False);"
        "assert y.flatten().tolist() == [0, 2];"
        "assert y.equal(torch.ops.icd.group_norm_silu(x, one, one, 1, 0.0, None, False))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


WRONG = {
    "x": lambda x: x[0],
    "skip": lambda skip: skip[:, :, :-1],
    "weight": lambda weight: weight[:1],
    "bias": lambda bias: bias[None],
}


def call_spoiled(name: str, spoil: Callable):
    names = ("x", "weight", "bias", "groups", "eps", "skip")
    given = dict(zip(names, make_maps((2, 36, 24, 3, 5, 6)), strict=True))
    return group_norm_silu(**given | {name: spoil(given[name])})


@pytest.mark.parametrize("name", WRONG)
def test_wrong_shapes_are_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"^{name} "):
        call_spoiled(name, WRONG[name])


@pytest.mark.parametrize("groups", [0, -6, 7])
def test_groups_that_do_not_divide_the_channels_are_refused(groups):
    with pytest.raises(ValueError, match=r"^groups must divide the 60 channels"):
        call_spoiled("groups", lambda _: groups)


@pytest.mark.parametrize("dtype", [torch.int32, torch.float64], ids=["int32", "float64"])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_dtypes_are_refused_by_name(name, dtype):
    with pytest.raises(TypeError, match=rf"^{name} .*{dtype}"):
        call_spoiled(name, lambda x: x.to(dtype))


def test_a_skip_of_another_dtype_is_refused():
    with pytest.raises(TypeError, match=r"^skip must be torch.float32, got torch.bfloat16"):
        call_spoiled("skip", lambda skip: skip.bfloat16())


@pytest.mark.parametrize("name", ["skip", "weight"])
def test_tensors_elsewhere_are_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"^{name} is on meta"):
        call_spoiled(name, lambda x: x.to("meta"))


def test_the_kernel_refuses_groups_that_fit_no_tile(interpret):
    pytest.importorskip("triton")
    from csrc_triton.group_norm_silu.kernel import launch

    with pytest.raises(ValueError, match=r"^groups have 8193 channels"):
        interpret(launch, *make_maps((1, 8193, 0, 1, 2, 1))[:5])


# Rows, channels, groups, side and bytes: Stable Diffusion's UNet, SDXL's, their autoencoders, the
# embedded model.
MAPS = [
    *[
        (rows, c, 32, side, 2)
        for rows in (1, 2, 16)
        for side, c in ((64, 320), (64, 960), (32, 640), (32, 1920))
    ],
    *[
        (rows, c, 32, side, 2)
        for rows in (1, 2, 16)
        for side, c in ((16, 1280), (16, 2560), (8, 1280), (8, 2560))
    ],
    *[(1, c, 32, side, 2) for side, c in ((128, 320), (128, 960), (64, 640), (64, 1920))],
    *[
        (1, c, 32, side, size)
        for size in (2, 4)
        for side, c in ((64, 512), (256, 256), (512, 128), (1024, 128))
    ],
    *[(1, c, groups, side, 4) for groups in (1, 16) for side, c in ((8, 256), (16, 128), (64, 64))],
]


@pytest.mark.parametrize("joined", [False, True], ids=["alone", "skip"])
@pytest.mark.parametrize("sizes", MAPS, ids=lambda sizes: "{}x{}/{}-{}-{}".format(*sizes))
def test_plans_cover_maps_and_fill_the_chip(sizes, joined):
    rows, channels, groups, side, itemsize = sizes
    depth, pixels = channels // groups, side * side
    p = plan(rows, channels, groups, pixels, itemsize, joined)
    assert p.width % depth == 0 and p.width <= p.block
    assert {p.block & (p.block - 1), p.tile & (p.tile - 1), p.warps & (p.warps - 1)} == {0}
    blocks = -(-channels // p.width)
    if not p.chunk:
        assert p.tile >= pixels and p.share == 1
        return
    chunks, shares = (-(-pixels // (tiles * p.tile)) for tiles in (p.chunk, p.share))
    assert chunks <= MOST_CHUNKS
    assert p.tile * p.block * itemsize <= 16384
    assert blocks * p.block <= 1.6 * channels  # lanes that idle
    if rows * channels * pixels >= 2**19:  # 16 KiB tiles of half of that would not go round
        assert rows * blocks * min(chunks, shares) >= SMS
