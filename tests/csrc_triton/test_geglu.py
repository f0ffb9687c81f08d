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


def make_rows(shape: tuple[int, ...], dtype=torch.float32, layout: Callable = contiguous) -> Tensor:
    """hidden [..., 2F] of a seeded example; gates reach both tails of the GELU."""
    generator = torch.Generator().manual_seed(0)
    return layout((2 * torch.randn((*shape[:-1], 2 * shape[-1]), generator=generator)).to(dtype))


def in_float64(hidden: Tensor) -> tuple[Tensor, Tensor]:
    """The formula in float64, and a bound on the error of a float32 evaluation of it.

    u = 2^-24. z = gate / sqrt 2 is off by 2 u of itself, erf(z) by that times |z erf'(z)| < 0.49
    and by 2 units in the last place (CUDA's, at most 2 u), Phi = (1 + erf) / 2 hence by 1.5 u and
    its own rounding. Two products round once each. With Phi <= 1: 1.5 + 1 + 2 < 5 units of |value
    gate|.
    """
    value, gate = hidden.double().chunk(2, dim=-1)
    product = value * gate
    return product * (1 + torch.erf(gate / math.sqrt(2))) / 2, 5 * 2.0**-24 * product.abs()


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


def assert_within_rounding(actual: Tensor, hidden: Tensor, roundoff: dict[torch.dtype, float]):
    """2^-25 is half the spacing of fp16's subnormal numbers, where the lower tail ends up."""
    expected, bound = in_float64(hidden)
    last = roundoff[hidden.dtype] * (expected.abs() + bound) + (
        2.0**-25 if hidden.dtype == torch.float16 else 0
    )
    assert actual.dtype == hidden.dtype and actual.shape == expected.shape
    assert ((actual.double() - expected).abs() <= bound + last).all()


@pytest.mark.parametrize(
    "layout", [contiguous, columns, channels_first], ids=lambda layout: layout.__name__
)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_result_is_within_rounding_of_float64(gate, roundoff, shape, dtype, layout):
    hidden = make_rows(shape, dtype, layout)
    assert_within_rounding(gate(hidden), hidden, roundoff)


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
    assert gate(make_rows(shape)).shape == shape


def test_inputs_are_left_alone(gate):
    hidden = make_rows((2, 5, 7))
    before = hidden.clone()
    gate(hidden)
    assert torch.equal(hidden, before)


@pytest.mark.parametrize("layout", [contiguous, channels_first], ids=lambda layout: layout.__name__)
def test_operator_is_registered_soundly(layout):
    torch.library.opcheck(OPERATOR, (make_rows((2, 5, 7), torch.bfloat16, layout),))


@pytest.mark.parametrize("gradients", [False, True], ids=["gradients-off", "gradients-on"])
def test_cuda_takes_the_operator_only_with_gradients_off(gradients):
    """Traced on tensors that only say they are on a GPU, so that this holds where there is none."""
    with FakeTensorMode():
        hidden = torch.empty_like(make_rows((2, 5, 7)), device="cuda")
    with torch.set_grad_enabled(gradients):
        graph = make_fx(geglu)(hidden).graph
    assert (OPERATOR in {node.target for node in graph.nodes}) == (not gradients)


def test_gradients_reach_the_input():
    def gradients(call: Callable) -> tuple[Tensor, ...]:
        hidden = make_rows((2, 5, 7)).requires_grad_()
        return torch.autograd.grad(call(hidden).square().sum(), hidden)

    def stock(hidden: Tensor) -> Tensor:
        value, gate = hidden.chunk(2, dim=-1)
        return value * F.gelu(gate)

    torch.testing.assert_close(gradients(geglu), gradients(stock))


def test_compiles_whole_and_once_for_all_values():
    """Without inductor, which needs a C++ compiler."""
    compiled = torch.compile(geglu, fullgraph=True, backend="aot_eager")
    hidden = make_rows((2, 5, 7), torch.bfloat16)
    assert torch.equal(compiled(hidden), geglu(hidden))
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled(hidden * 0.5)


class Gate(torch.nn.Module):
    def forward(self, hidden):
        return geglu(hidden)


class Operator(torch.nn.Module):
    def forward(self, hidden):
        return torch.ops.icd.geglu(hidden)


def operators(program: torch.export.ExportedProgram) -> set[str]:
    return {
        str(node.target).split(".")[0] for node in program.graph.nodes if node.op == "call_function"
    }


def test_exports_as_plain_pytorch():
    hidden = make_rows((2, 5, 7))
    program = torch.export.export(Gate(), (hidden,))
    assert "icd" not in operators(program)
    assert torch.equal(program.module()(hidden), geglu(hidden))


def test_the_operator_exports_and_decomposes_to_the_reference():
    hidden = make_rows((2, 5, 7))
    program = torch.export.export(Operator(), (hidden,))
    assert operators(program) == {"icd"}

    plain = program.run_decompositions({OPERATOR: geglu_reference})

    assert "icd" not in operators(plain)
    assert torch.equal(plain.module()(hidden), geglu(hidden))


def test_cpu_needs_no_triton():
    """Neither the public call nor the registered operator."""
    code = (
        "import sys; sys.modules['triton'] = None; import torch; from csrc_triton.geglu import geglu;"
        "x = torch.tensor([2.0, 10.0]); assert geglu(x).item() == torch.ops.icd.geglu(x).item() == 20"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


@pytest.mark.parametrize("shape", [(2, 7), ()], ids=["odd", "scalar"])
def test_wrong_shapes_are_refused_by_name(shape):
    with pytest.raises(ValueError, match=r"^hidden must be .*, got "):
        geglu(torch.ones(shape))


@pytest.mark.parametrize("dtype", [torch.int32, torch.float64], ids=["int32", "float64"])
def test_wrong_dtypes_are_refused_by_name(dtype):
    with pytest.raises(TypeError, match=rf"^hidden .*{dtype}"):
        geglu(make_rows((2, 5, 7)).to(dtype))
