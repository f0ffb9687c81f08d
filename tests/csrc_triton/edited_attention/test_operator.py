"""edited_attention as an operator of PyTorch: dispatch, gradients, export and refusals."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from csrc_triton.edited_attention.reference import edited_attention_reference
from tests.csrc_triton.edited_attention.rows import SHAPES, assert_within_rounding, call, make_rows

GIVEN = {"all": 9, "no-columns": 8, "no-source-values": 7}
NAMES = ("q", "k", "gained", "source_q", "source_k", "mixed", "source_row", "source_v", "columns")
OPERATOR = torch.ops.icd.edited_attention.default


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_operator_is_registered_soundly(given):
    arguments = tuple(make_rows((2, (1, 0, 1), 2, 5, 8, 16), torch.bfloat16)[:given])
    torch.library.opcheck(OPERATOR, arguments)


@pytest.mark.parametrize("gradients", [False, True], ids=["gradients-off", "gradients-on"])
def test_cuda_takes_the_operator_only_with_gradients_off(gradients):
    """Traced on tensors that only say they are on a GPU, so that this holds where there is none.

    Without columns, because indexing such a tensor takes a CUDA build.
    """
    with FakeTensorMode():
        arguments = [
            torch.empty(x.shape, dtype=x.dtype, device="cuda")
            for x in make_rows(SHAPES["sd-40"])[:8]
        ]
    with torch.set_grad_enabled(gradients):
        graph = make_fx(call)(*arguments).graph
    assert (OPERATOR in {node.target for node in graph.nodes}) == (not gradients)


def test_gradients_reach_every_input():
    """Those of PyTorch's own attention, once for every set of values."""

    def gradients(attention: Callable) -> tuple[Tensor, ...]:
        arguments = make_rows((1, (0,), 2, 5, 8, 16))[:8]
        inputs = [x.detach().clone().requires_grad_() for x in arguments if x.is_floating_point()]
        q, k, gained, source_q, source_k, mixed, source_v = inputs
        out = attention(q, k, gained, source_q, source_k, mixed, arguments[6], source_v)
        return torch.autograd.grad(out.square().sum(), inputs)

    def stock(q, k, gained, source_q, source_k, mixed, source_row, source_v):
        attention = F.scaled_dot_product_attention
        edited = attention(source_q, source_k, mixed) + attention(q, k, gained)
        return torch.cat([attention(source_q, source_k, source_v), edited])

    torch.testing.assert_close(gradients(lambda *arguments: call(*arguments)[0]), gradients(stock))


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_compiles_whole_and_once_for_all_values(given):
    """Without inductor, which needs a C++ compiler.

    Another mapping of the same targets is another value, no more.
    """
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    arguments = make_rows((2, (1, 0, 1), 2, 5, 8, 16), torch.bfloat16)[:given]
    assert_within_rounding(compiled(*arguments), arguments)
    others = [
        1 - argument if argument.dtype == torch.int64 else argument * 0.5 for argument in arguments
    ]
    with torch.compiler.set_stance("fail_on_recompile"):
        assert_within_rounding(compiled(*others), others)


class Edit(torch.nn.Module):
    def forward(self, *arguments: Tensor) -> tuple[Tensor, Tensor | None]:
        return call(*arguments)


class Operator(torch.nn.Module):
    def forward(self, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ops.icd.edited_attention(*arguments)


def namespaces(program: torch.export.ExportedProgram) -> set[str]:
    return {
        str(node.target).split(".")[0] for node in program.graph.nodes if node.op == "call_function"
    }


def test_exports_as_plain_pytorch():
    arguments = tuple(make_rows((2, (1, 0, 1), 2, 5, 8, 16)))
    program = torch.export.export(Edit(), arguments)
    assert "icd" not in namespaces(program)
    assert_within_rounding(program.module()(*arguments), list(arguments))


def test_the_operator_exports_and_decomposes_to_the_reference():
    arguments = tuple(make_rows((2, (1, 0, 1), 2, 5, 8, 16)))
    program = torch.export.export(Operator(), arguments)
    assert "icd" in namespaces(program)
    plain = program.run_decompositions({OPERATOR: edited_attention_reference})
    assert "icd" not in namespaces(plain)
    assert_within_rounding(plain.module()(*arguments), list(arguments))


def test_cpu_needs_no_triton():
    """Neither the public call nor the registered operator."""
    code = (
        "import sys; sys.modules['triton'] = None; import torch;"
        "from csrc_triton.edited_attention import edited_attention;"
        "x = torch.ones(1, 1, 1, 1); row = torch.zeros(1, dtype=torch.int64);"
        "assert edited_attention(x, x, x, x, x, x, row)[0].item() == 2;"
        "assert torch.ops.icd.edited_attention(x, x, x, x, x, x, row)[0].item() == 2"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


def call_spoiled(name: str, spoil: Callable[[Tensor], Tensor]):
    arguments = make_rows((2, (1, 0, 1), 2, 5, 8, 16))
    arguments[NAMES.index(name)] = spoil(arguments[NAMES.index(name)])
    return call(*arguments)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_shapes_are_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"^{name} must "):
        call_spoiled(name, lambda x: x[0])
    if name not in ("q", "source_row"):
        with pytest.raises(ValueError, match=rf"^{name} must "):
            call_spoiled(name, lambda x: x[..., :-1])


@pytest.mark.parametrize("dtype", [torch.int32, torch.float64], ids=["int32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_wrong_dtypes_are_refused_by_name(name, dtype):
    with pytest.raises(TypeError, match=rf"^{name} .*{dtype}"):
        call_spoiled(name, lambda x: x.to(dtype))


@pytest.mark.parametrize("name", ["k", "source_row", "columns"])
def test_tensors_elsewhere_are_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"^{name} is on meta"):
        call_spoiled(name, lambda x: x.to("meta"))


@pytest.mark.parametrize(
    "shape", [(1, (0,), 0, 5, 8, 16), (1, (0,), 2, 5, 0, 16), (1, (0,), 2, 5, 8, 0)]
)
def test_attention_to_nothing_is_refused(shape):
    with pytest.raises(ValueError, match=r"^k must have heads, tokens and channels"):
        call(*make_rows(shape))
