"""layer_norm as an operator of PyTorch: dispatch, gradients, export and refusals."""

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
from tests.csrc_triton.layer_norm.rows import channels_first, contiguous, make_rows

OPERATORS = {
    "alone": torch.ops.icd.layer_norm.default,
    "residual": torch.ops.icd.add_layer_norm.default,
}


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


def test_a_carry_is_checked_and_needs_a_residual():
    x, weight, bias, eps, residual = make_rows((2, 5, 8))
    with pytest.raises(ValueError, match="carry is not taken without a residual"):
        layer_norm(x, weight, bias, eps, carry=bias)
    with pytest.raises(ValueError, match=r"^carry must be"):
        layer_norm(x, weight, bias, eps, residual=residual, carry=bias[1:])


def test_the_operator_with_a_carry_is_registered_soundly():
    x, weight, bias, eps, residual = make_rows((2, 5, 8))
    operator = torch.ops.icd.add_layer_norm.default
    torch.library.opcheck(operator, (x, residual, weight, bias, eps, bias))
