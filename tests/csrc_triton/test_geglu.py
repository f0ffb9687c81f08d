"""geglu on CPU, in Triton's interpreter and on a GPU, held to float64; dispatch, export and
refusals."""

import math
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from csrc_triton.geglu import geglu
from csrc_triton.geglu.reference import geglu_reference

# [..., F]: the embedded model's width, two blocks, a ragged last block, less than a block; ragged
# rows; one row alone.
SHAPES = {
    "256": (2, 5, 256),
    "512": (16, 512),
    "301": (3, 3, 301),
    "7": (9, 7),
    "one-column": (4, 1),
    "one-row": (40,),
}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
OPERATOR = torch.ops.icd.geglu.default


def contiguous(hidden: Tensor) -> Tensor:
    return hidden.contiguous()


def columns(hidden: Tensor) -> Tensor:
    """A part of wider rows, as one of several outputs of a fused projection is."""
    return torch.cat([hidden + 1, hidden], dim=-1)[..., hidden.shape[-1] :]


def channels_first(hidden: Tensor) -> Tensor:
    """The tokens of a contiguous map [C, H, W]."""
    return hidden.movedim(-1, 0).contiguous().movedim(0, -1)


def make_rows(
    shape: tuple[int, ...], dtype=torch.float32, layout: Callable = contiguous
) -> list[Tensor]:
    """hidden [..., 2F] and bias [2F] of a seeded example; gates reach both tails of the GELU."""
    generator = torch.Generator().manual_seed(0)
    hidden = 2 * torch.randn((*shape[:-1], 2 * shape[-1]), generator=generator)
    return [layout(hidden.to(dtype)), torch.randn(2 * shape[-1], generator=generator).to(dtype)]


def in_float64(hidden: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The formula in float64, and a bound on the error of a float32 evaluation of it.

    u = 2^-24. z = gate / sqrt 2 is off by 2 u of itself, erf(z) by that times |z erf'(z)| < 0.49
    and by 2 units in the last place (CUDA's, at most 2 u), Phi = (1 + erf) / 2 hence by 1.5 u and
    its own rounding. Two products round once each; where a bias is added, value and gate are off by
    u of themselves, and |gelu'| < 1.13. With Phi <= 1: 1.5 + 1 + 2 + 1 + 1.13 < 7 units of |value
    gate|.
    """
    projected = hidden.double() if bias is None else hidden.double() + bias.double()
    value, gate = projected.chunk(2, dim=-1)
    return value * gate * (1 + torch.erf(gate / math.sqrt(2))) / 2, 7 * 2.0**-24 * (
        value * gate
    ).abs()


@pytest.fixture
def gate(implementation: Callable) -> Callable[..., Tensor]:
    return implementation(geglu, "csrc_triton.geglu.kernel")


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


def assert_within_rounding(
    actual: Tensor, hidden: Tensor, bias: Tensor | None, roundoff: dict[torch.dtype, float]
):
    """2^-25 is half the spacing of fp16's subnormal numbers, where the lower tail ends up."""
    expected, bound = in_float64(hidden, bias)
    last = roundoff[hidden.dtype] * (expected.abs() + bound) + (
        2.0**-25 if hidden.dtype == torch.float16 else 0
    )
    assert actual.dtype == hidden.dtype and actual.shape == expected.shape
    assert ((actual.double() - expected).abs() <= bound + last).all()


@pytest.mark.parametrize("biased", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize(
    "layout", [contiguous, columns, channels_first], ids=lambda layout: layout.__name__
)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_result_is_within_rounding_of_float64(gate, roundoff, shape, dtype, layout, biased):
    hidden, bias = make_rows(shape, dtype, layout)
    bias = bias if biased else None
    assert_within_rounding(gate(hidden, bias), hidden, bias, roundoff)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_bias_may_be_float32(gate, roundoff, dtype):
    hidden, bias = make_rows((2, 5, 256), dtype)
    bias = bias.float() + 2.0**-12  # a bias that half precision would round
    assert_within_rounding(gate(hidden, bias), hidden, bias, roundoff)


def test_far_gates_pass_the_value_or_nothing(gate):
    """The exact GELU, not a tanh: 1 from 6 on in float32, and -0 below -6.

    Also where squares would overflow.
    """
    gates = torch.tensor([6.0, 100.0, 1e30, -6.0, -100.0, -1e30])
    product = gate(torch.cat([torch.full((6,), 3.0), gates])[None])[0]
    assert torch.equal(product, torch.cat([3 * gates[:3], torch.zeros(3)]))


@pytest.mark.parametrize(
    "shape", [(0, 8), (2, 0, 8), (3, 0)], ids=["no-rows", "no-tokens", "no-columns"]
)
def test_nothing_to_do_is_no_error(gate, shape):
    assert gate(*make_rows(shape)).shape == shape


def test_inputs_are_left_alone(gate):
    arguments = make_rows((2, 5, 7))
    before = [argument.clone() for argument in arguments]
    gate(*arguments)
    assert all(map(torch.equal, arguments, before))


@pytest.mark.parametrize("layout", [contiguous, channels_first], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("given", [1, 2], ids=["plain", "bias"])
def test_operator_is_registered_soundly(given, layout):
    torch.library.opcheck(OPERATOR, tuple(make_rows((2, 5, 7), torch.bfloat16, layout)[:given]))


@pytest.mark.parametrize("gradients", [False, True], ids=["gradients-off", "gradients-on"])
def test_cuda_takes_the_operator_only_with_gradients_off(gradients):
    """Traced on tensors that only say they are on a GPU, so that this holds where there is none."""
    with FakeTensorMode():
        arguments = [torch.empty_like(argument, device="cuda") for argument in make_rows((2, 5, 7))]
    with torch.set_grad_enabled(gradients):
        graph = make_fx(geglu)(*arguments).graph
    assert (OPERATOR in {node.target for node in graph.nodes}) == (not gradients)


def test_gradients_reach_every_input():
    def gradients(call: Callable) -> tuple[Tensor, ...]:
        inputs = [tensor.requires_grad_() for tensor in make_rows((2, 5, 7))]
        return torch.autograd.grad(call(*inputs).square().sum(), inputs)

    def stock(hidden: Tensor, bias: Tensor) -> Tensor:
        value, gate = (hidden + bias).chunk(2, dim=-1)
        return value * F.gelu(gate)

    torch.testing.assert_close(gradients(geglu), gradients(stock))


@pytest.mark.parametrize("given", [1, 2], ids=["plain", "bias"])
def test_compiles_whole_and_once_for_all_values(given):
    """Without inductor, which needs a C++ compiler."""
    compiled = torch.compile(geglu, fullgraph=True, backend="aot_eager")
    arguments = make_rows((2, 5, 7), torch.bfloat16)[:given]
    assert torch.equal(compiled(*arguments), geglu(*arguments))
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled(*(argument * 0.5 for argument in arguments))


class Gate(torch.nn.Module):
    def forward(self, hidden, bias):
        return geglu(hidden, bias)


class Operator(torch.nn.Module):
    def forward(self, hidden, bias):
        return torch.ops.icd.geglu(hidden, bias)


def operators(program: torch.export.ExportedProgram) -> set[str]:
    return {
        str(node.target).split(".")[0] for node in program.graph.nodes if node.op == "call_function"
    }


def test_exports_as_plain_pytorch():
    arguments = tuple(make_rows((2, 5, 7)))
    program = torch.export.export(Gate(), arguments)
    assert "icd" not in operators(program)
    assert torch.equal(program.module()(*arguments), geglu(*arguments))


def test_the_operator_exports_and_decomposes_to_the_reference():
    arguments = tuple(make_rows((2, 5, 7)))
    program = torch.export.export(Operator(), arguments)
    assert operators(program) == {"icd"}

    plain = program.run_decompositions({OPERATOR: geglu_reference})

    assert "icd" not in operators(plain)
    assert torch.equal(plain.module()(*arguments), geglu(*arguments))


def test_cpu_needs_no_triton():
    """Neither the public call nor the registered operator."""
    code = (
        "import sys; sys.modules['triton'] = None; import torch; from csrc_triton.geglu import geglu;"
        "x = torch.tensor([2.0, 10.0]); assert geglu(x).item() == torch.ops.icd.geglu(x).item() == 20"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


@pytest.mark.parametrize(
    ("name", "hidden", "bias"),
    [
        ("hidden", (2, 7), None),
        ("hidden", (), None),
        ("bias", (2, 6), (3,)),
        ("bias", (2, 6), (1, 6)),
    ],
    ids=["odd", "scalar", "half-a-bias", "bias-with-rows"],
)
def test_wrong_shapes_are_refused_by_name(name, hidden, bias):
    with pytest.raises(ValueError, match=rf"^{name} must be .*, got "):
        geglu(torch.ones(hidden), None if bias is None else torch.ones(bias))


@pytest.mark.parametrize("dtype", [torch.int32, torch.float64], ids=["int32", "float64"])
@pytest.mark.parametrize("name", ["hidden", "bias"])
def test_wrong_dtypes_are_refused_by_name(name, dtype):
    hidden, bias = make_rows((2, 5, 7))
    arguments = {"hidden": hidden, "bias": bias}
    with pytest.raises(TypeError, match=rf"^{name} .*{dtype}"):
        geglu(**arguments | {name: arguments[name].to(dtype)})


def test_a_bias_elsewhere_is_refused_by_name():
    hidden, bias = make_rows((2, 5, 7))
    with pytest.raises(ValueError, match=r"^bias is on meta"):
        geglu(hidden, bias.to("meta"))
