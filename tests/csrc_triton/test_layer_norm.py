"""layer_norm on CPU, in Triton's interpreter and on a GPU, held to float64; dispatch, export and
refusals."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from csrc_triton.layer_norm import layer_norm
from csrc_triton.layer_norm.reference import layer_norm_reference

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
OPERATORS = {
    "alone": torch.ops.icd.layer_norm.default,
    "residual": torch.ops.icd.add_layer_norm.default,
}


def contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


def columns(x: Tensor) -> Tensor:
    """A part of wider rows, as one of several outputs of a fused projection is."""
    return torch.cat([x + 1, x], dim=-1)[..., x.shape[-1] :]


def channels_first(x: Tensor) -> Tensor:
    """The tokens of a contiguous map [C, H, W]."""
    return x.movedim(-1, 0).contiguous().movedim(0, -1)


def make_rows(
    shape: tuple[int, ...], dtype=torch.float32, layout: Callable = contiguous, mean: float = 0.5
):
    """x, weight, bias, eps, residual of a seeded example; float32 parameters."""
    generator = torch.Generator().manual_seed(0)
    x, residual = (torch.randn(shape, generator=generator) + mean for _ in range(2))
    weight, bias = (torch.randn(shape[-1:], generator=generator) for _ in range(2))
    return [layout(x.to(dtype)), weight, bias, 1e-5, layout(residual.to(dtype))]


@pytest.fixture
def norm(implementation: Callable) -> Callable[..., tuple[Tensor, Tensor]]:
    """The call in one of three ways; residual=None leaves it out."""
    op = implementation(layer_norm, "csrc_triton.layer_norm.kernel")
    return lambda x, weight, bias, eps, residual=None: op(x, weight, bias, eps, residual=residual)


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


def test_without_a_residual_the_sum_is_x_itself():
    x, *parameters, _ = make_rows((2, 9, 64))
    assert layer_norm(x, *parameters)[0] is x


def arguments_of(operator: str, *made) -> tuple:
    """What the registered operator takes: the residual second, or no residual."""
    x, weight, bias, eps, residual = make_rows(*made)
    return (x, weight, bias, eps) if operator == "alone" else (x, residual, weight, bias, eps)


@pytest.mark.parametrize("layout", [contiguous, channels_first], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("operator", OPERATORS)
def test_operators_are_registered_soundly(operator, layout):
    arguments = arguments_of(operator, (2, 9, 64), torch.bfloat16, layout)
    torch.library.opcheck(OPERATORS[operator], arguments)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("gradients", [False, True], ids=["gradients-off", "gradients-on"])
def test_cuda_takes_the_operator_only_with_gradients_off(operator, gradients):
    """Traced on tensors that only say they are on a GPU, so that this holds where there is none."""
    with FakeTensorMode():
        x, weight, bias, eps, residual = make_rows((2, 9, 64))
        x, weight, bias, residual = (
            torch.empty_like(t, device="cuda") for t in (x, weight, bias, residual)
        )
    residual = residual if operator == "residual" else None

    def call(x, weight, bias, residual):
        return layer_norm(x, weight, bias, eps, residual=residual)

    with torch.set_grad_enabled(gradients):
        graph = make_fx(call)(x, weight, bias, residual).graph
    assert (OPERATORS[operator] in {node.target for node in graph.nodes}) == (not gradients)


def test_gradients_reach_every_input():
    """Those of PyTorch's own LayerNorm, for a loss that uses sum and normed."""

    def gradients(call: Callable) -> tuple[Tensor, ...]:
        x, weight, bias, eps, residual = make_rows((2, 9, 64))
        inputs = [tensor.requires_grad_() for tensor in (x, weight, bias, residual)]
        total, normed = call(x, weight, bias, eps, residual)
        return torch.autograd.grad((total.square() * normed).sum(), inputs)

    ours = gradients(
        lambda x, weight, bias, eps, residual: layer_norm(x, weight, bias, eps, residual=residual)
    )
    stock = gradients(
        lambda x, weight, bias, eps, r: (
            x + r,
            F.layer_norm(x + r, x.shape[-1:], weight, bias, eps),
        )
    )
    torch.testing.assert_close(ours, stock)


@pytest.mark.parametrize("given", ["alone", "residual"])
def test_compiles_whole_and_once_for_all_values(given):
    """Without inductor, which needs a C++ compiler."""
    compiled = torch.compile(layer_norm, fullgraph=True, backend="aot_eager")
    x, weight, bias, eps, residual = make_rows((2, 9, 64), torch.bfloat16)
    residual = residual if given == "residual" else None
    results = compiled(x, weight, bias, eps, residual=residual)
    assert all(map(torch.equal, results, layer_norm(x, weight, bias, eps, residual=residual)))
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled(
            x * 0.5,
            weight * 2,
            bias + 1,
            eps,
            residual=residual if residual is None else residual - 1,
        )


class Block(torch.nn.Module):
    def forward(self, x, residual, weight, bias):
        x, h = layer_norm(x, weight, bias, residual=residual)
        return x, *layer_norm(h, weight, bias)


class Operator(torch.nn.Module):
    def forward(self, x, residual, weight, bias):
        x, h = torch.ops.icd.add_layer_norm(x, residual, weight, bias, 1e-5)
        return x, h, torch.ops.icd.layer_norm(h, weight, bias, 1e-5)


def operators(program: torch.export.ExportedProgram) -> set[str]:
    return {
        str(node.target).split(".")[0] for node in program.graph.nodes if node.op == "call_function"
    }


def test_exports_as_plain_pytorch():
    arguments = arguments_of("residual", (2, 9, 64))[:4]
    program = torch.export.export(Block(), arguments)
    assert "icd" not in operators(program)
    assert all(map(torch.equal, program.module()(*arguments), Block()(*arguments)))


def test_the_operators_export_and_decompose_to_the_reference():
    arguments = arguments_of("residual", (2, 9, 64))[:4]
    program = torch.export.export(Operator(), arguments)
    assert "icd" in operators(program)

    plain = program.run_decompositions({
        OPERATORS["alone"]: lambda x, weight, bias, eps: layer_norm_reference(x, weight, bias, eps)[1],
        OPERATORS["residual"]: lambda x, r, weight, bias, eps: layer_norm_reference(x, weight, bias, eps, residual=r),
    })  # fmt: skip

    assert "icd" not in operators(plain)
    torch.testing.assert_close(plain.module()(*arguments), Operator()(*arguments))


def test_cpu_needs_no_triton():
    """Neither the public call nor the registered operators."""
    code = (
        "import sys; sys.modules['triton'] = None; import torch; from csrc_triton.layer_norm import layer_norm;"
        "x = torch.tensor([[-1.0, 1.0]]); one = torch.ones(2); nothing = torch.zeros(2);"
        "assert layer_norm(x, one, nothing, 0.0)[1].equal(torch.ops.icd.layer_norm(x, one, nothing, 0.0));"
        "assert torch.ops.icd.add_layer_norm(x, x, one, nothing, 0.0)[0].equal(2 * x)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


WRONG = {
    "x": lambda x: x[0, 0, 0],
    "weight": lambda weight: weight[:1],
    "bias": lambda bias: bias[None],
    "residual": lambda residual: residual[0],
}


def call_spoiled(name: str, spoil: Callable[[Tensor], Tensor]):
    x, weight, bias, eps, residual = make_rows((2, 9, 64))
    given = {"x": x, "weight": weight, "bias": bias, "residual": residual}
    return layer_norm(**given | {name: spoil(given[name])}, eps=eps)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_shapes_are_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"^{name} "):
        call_spoiled(name, WRONG[name])


@pytest.mark.parametrize("dtype", [torch.int32, torch.float64], ids=["int32", "float64"])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_dtypes_are_refused_by_name(name, dtype):
    with pytest.raises(TypeError, match=rf"^{name} .*{dtype}"):
        call_spoiled(name, lambda x: x.to(dtype))


@pytest.mark.parametrize("name", ["weight", "residual"])
def test_tensors_elsewhere_are_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"^{name} is on meta"):
        call_spoiled(name, lambda x: x.to("meta"))


def test_the_kernel_refuses_rows_that_fit_no_registers(interpret):
    pytest.importorskip("triton")
    from csrc_triton.layer_norm.kernel import launch

    with pytest.raises(ValueError, match=r"^x has 8193 channels"):
        interpret(launch, *make_rows((1, 8193))[:4])
