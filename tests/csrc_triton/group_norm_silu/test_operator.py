"""group_norm_silu as an operator of PyTorch: dispatch, gradients, export and refusals."""

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
from csrc_triton.group_norm_silu.reference import group_norm_silu_reference
from tests.csrc_triton.group_norm_silu.maps import (
    SHAPES,
    channels_last,
    contiguous,
    make_maps,
    sliced,
)

OPERATOR = torch.ops.icd.group_norm_silu.default


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


def test_a_shift_is_checked_and_goes_without_a_skip():
    x, weight, bias, *_, skip = make_maps((2, 36, 24, 3, 5, 6))
    with pytest.raises(ValueError, match="shift is not taken with a skip"):
        group_norm_silu(x, weight, bias, 6, 1e-5, skip=skip, shift=torch.zeros(2, 36))
    with pytest.raises(ValueError, match=r"^shift must be"):
        group_norm_silu(x, weight[:36], bias[:36], 6, 1e-5, shift=torch.zeros(36))


def test_the_operator_with_a_shift_is_registered_soundly():
    x, weight, bias, groups, eps, _ = make_maps(SHAPES["10-deep"], torch.bfloat16)
    shift = torch.ones(x.shape[:2], dtype=x.dtype)
    torch.library.opcheck(OPERATOR, (x, weight, bias, groups, eps, None, True, shift))
