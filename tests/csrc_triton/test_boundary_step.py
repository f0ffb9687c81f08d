"""boundary_step on CPU, in Triton's interpreter and on a GPU, held to float64; dispatch, export and
refusals."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from csrc_triton.boundary_step import boundary_step
from csrc_triton.boundary_step.reference import boundary_step_reference

# Odd sizes leave a ragged last block; 1x1 is the smallest latent; 8x64 fills whole blocks; 5 rows
# differ in A, B and w.
SHAPES = {
    "odd": (5, 4, 9, 13),
    "one-pixel": (2, 4, 1, 1),
    "full-blocks": (2, 4, 8, 64),
    "one-channel": (1, 1, 3, 5),
}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def contiguous(eps: Tensor) -> Tensor:
    return eps.contiguous()


def channels_last(eps: Tensor) -> Tensor:
    return eps.contiguous(memory_format=torch.channels_last)


def sliced(eps: Tensor) -> Tensor:
    """Gaps along every axis, as a view into something larger has them."""
    return torch.stack([eps, eps + 1], dim=-1).flatten(-2)[..., ::2]


def make_rows(
    shape: tuple[int, ...], dtype=torch.float32, layout: Callable = contiguous
) -> list[Tensor]:
    """latents, eps, A, B, eps_uncond, w of a seeded example; the first row is unguided, as in an
    edit."""
    generator = torch.Generator().manual_seed(0)
    latents, eps, eps_uncond = (torch.randn(shape, generator=generator) for _ in range(3))
    A, B, w = (torch.rand(shape[0], generator=generator) * scale for scale in (4.0, -3.0, 19.0))
    w[:1] = 0
    return [latents, layout(eps.to(dtype)), A, B, layout(eps_uncond.to(dtype)), w]


def in_float64(latents, eps, A, B, eps_uncond=None, w=None) -> tuple[Tensor, Tensor]:
    """The formula in float64, and a bound on the error of any float32 evaluation of it.

    The longest chain is 1 + w, the difference, their product, + eps_uncond, times B, + A x: 6
    roundings of relative size u = 2^-24, each acting on no more than the sum of the terms'
    magnitudes. Inputs are exact in float64.
    """
    column = lambda row_constant: row_constant.double().view(-1, 1, 1, 1)  # noqa: E731
    eps_hat, magnitude = eps.double(), eps.double().abs()
    if w is not None:
        uncond, gain = eps_uncond.double(), 1 + column(w)
        eps_hat, magnitude = (
            uncond + gain * (eps_hat - uncond),
            uncond.abs() + gain * (magnitude + uncond.abs()),
        )
    result = column(A) * latents + column(B) * eps_hat
    terms = column(A).abs() * latents.abs() + column(B).abs() * magnitude
    return result, 6 * 2.0**-24 * terms


@pytest.fixture
def step(implementation: Callable) -> Callable[..., Tensor]:
    return implementation(boundary_step, "csrc_triton.boundary_step.kernel")


@pytest.mark.parametrize("guided", [False, True], ids=["unguided", "guided"])
@pytest.mark.parametrize(
    "layout", [contiguous, channels_last, sliced], ids=lambda layout: layout.__name__
)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_result_is_within_float32_rounding_of_float64(step, shape, dtype, layout, guided):
    arguments = make_rows(shape, dtype, layout)[: 6 if guided else 4]
    expected, bound = in_float64(*arguments)

    actual = step(*arguments)

    assert actual.dtype == torch.float32 and actual.is_contiguous()
    assert ((actual.double() - expected).abs() <= bound).all()


def test_the_two_predictions_may_differ_in_layout_and_dtype(step):
    latents, eps, A, B, eps_uncond, w = make_rows((3, 4, 5, 7))
    arguments = latents, channels_last(eps).half(), A, B, eps_uncond[:, :, :1].expand_as(eps), w
    expected, bound = in_float64(*arguments)
    assert ((step(*arguments).double() - expected).abs() <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_rows_without_guidance_take_exactly_eps(step, dtype):
    latents, eps, _, _, eps_uncond, w = make_rows((3, 4, 9, 13), dtype)
    w[:2], w[2] = 0, 7
    eps_uncond[0], eps_uncond[1] = torch.nan, torch.inf
    nothing, one = torch.zeros(3), torch.ones(3)

    eps_hat = step(latents, eps, nothing, one, eps_uncond, w)

    assert torch.equal(eps_hat[:2], eps[:2].float())
    assert eps_hat.isfinite().all() and not torch.equal(eps_hat[2], eps[2].float())


def test_latents_of_another_layout_come_back_contiguous(step):
    latents, *others = make_rows((2, 4, 8, 9))
    assert torch.equal(step(channels_last(latents), *others), step(latents, *others))


@pytest.mark.parametrize("shape", [(0, 4, 5, 7), (2, 4, 0, 7)], ids=["no-rows", "no-pixels"])
def test_nothing_to_do_is_no_error(step, shape):
    assert step(*make_rows(shape)).shape == shape


def test_inputs_are_left_alone(step):
    arguments = make_rows((2, 4, 5, 7))
    before = [argument.clone() for argument in arguments]
    step(*arguments)
    assert all(map(torch.equal, arguments, before))


@pytest.mark.parametrize("given", [4, 6], ids=["unguided", "guided"])
def test_operator_is_registered_soundly(given):
    arguments = tuple(make_rows((2, 4, 5, 7), torch.bfloat16)[:given])
    torch.library.opcheck(torch.ops.icd.boundary_step.default, arguments)


@pytest.mark.parametrize("gradients", [False, True], ids=["gradients-off", "gradients-on"])
def test_cuda_takes_the_operator_only_with_gradients_off(gradients):
    """Traced on tensors that only say they are on a GPU, so that this holds where there is none."""
    with FakeTensorMode():
        arguments = [
            torch.empty_like(argument, device="cuda") for argument in make_rows((2, 4, 5, 7))
        ]
    with torch.set_grad_enabled(gradients):
        graph = make_fx(lambda *given: boundary_step(*given))(*arguments).graph
    assert (torch.ops.icd.boundary_step.default in {node.target for node in graph.nodes}) == (
        not gradients
    )


def test_gradients_are_the_formulas():
    """Of a sum of x_s: A per latent, B (1 + w) per prediction, -B w per unguided one; rows with w =
    0 have B and 0.

    Two roundings each, 1 + w and its product with B; PyTorch adds up the two paths to eps_uncond, B
    and -B (1 + w).
    """
    arguments = make_rows((3, 4, 5, 7))
    latents, eps, A, B, eps_uncond, w = arguments
    for argument in (latents, eps, eps_uncond):
        argument.requires_grad_()
    boundary_step(*arguments).sum().backward()
    column = lambda row_constant: row_constant.view(-1, 1, 1, 1).expand_as(latents)  # noqa: E731
    tolerance = {"rtol": 0, "atol": 4 * 2.0**-24 * (B.abs() * (2 + w)).max().item()}
    torch.testing.assert_close(latents.grad, column(A), rtol=0, atol=0)
    torch.testing.assert_close(eps.grad, column(B * (1 + w)), **tolerance)
    torch.testing.assert_close(eps_uncond.grad, column(-B * w), **tolerance)


def test_compiles_whole_and_once_for_all_hops():
    """Without inductor, which needs a C++ compiler."""
    compiled = torch.compile(boundary_step, fullgraph=True, backend="aot_eager")
    arguments = make_rows((2, 4, 8, 8), torch.bfloat16, channels_last)
    assert torch.equal(compiled(*arguments), boundary_step(*arguments))
    # Another hop: other constants, another guidance
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled(*(argument * 0.5 for argument in arguments))


class Hop(torch.nn.Module):
    def forward(self, latents, eps, A, B, eps_uncond, w):
        return boundary_step(latents, eps, A, B, eps_uncond, w)


class Operator(torch.nn.Module):
    def forward(self, latents, eps, A, B, eps_uncond, w):
        return torch.ops.icd.boundary_step(latents, eps, A, B, eps_uncond, w)


def operators(program: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def test_exports_as_plain_pytorch():
    arguments = tuple(make_rows((2, 4, 8, 9)))
    program = torch.export.export(Hop(), arguments)
    assert all(name.startswith("aten.") for name in operators(program))
    assert torch.equal(program.module()(*arguments), boundary_step(*arguments))


def test_the_operator_exports_and_decomposes_to_the_reference():
    arguments = tuple(make_rows((2, 4, 8, 9)))
    program = torch.export.export(Operator(), arguments)
    assert operators(program) == ["icd.boundary_step.default"]

    plain = program.run_decompositions(
        {torch.ops.icd.boundary_step.default: boundary_step_reference}
    )

    assert all(name.startswith("aten.") for name in operators(plain))
    assert torch.equal(plain.module()(*arguments), boundary_step(*arguments))


def test_cpu_needs_no_triton():
    """Neither the public call nor the registered operator."""
    code = (
        "import sys; sys.modules['triton'] = None; import torch; from csrc_triton.boundary_step import boundary_step;"
        "one = torch.ones(1); x = torch.ones(1, 1, 1, 1);"
        "assert boundary_step(x, x, one, one).item() == torch.ops.icd.boundary_step(x, x, one, one).item() == 2"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


WRONG = {
    "latents": (0, lambda x: x[0]),
    "eps": (1, lambda x: x[:, :, :-1]),
    "A": (2, lambda x: x[:1]),
    "B": (3, lambda x: x[:, None]),
    "eps_uncond": (4, lambda x: x[:1]),
    "w": (5, lambda x: x[:1]),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_shapes_are_refused_by_name(name):
    arguments = make_rows((3, 4, 5, 7))
    position, spoil = WRONG[name]
    arguments[position] = spoil(arguments[position])
    with pytest.raises(ValueError, match=rf"^{name} "):
        boundary_step(*arguments)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_dtypes_are_refused_by_name(name):
    arguments = make_rows((3, 4, 5, 7))
    arguments[WRONG[name][0]] = arguments[WRONG[name][0]].to(torch.int32)
    with pytest.raises(TypeError, match=rf"^{name} .*int32"):
        boundary_step(*arguments)


@pytest.mark.parametrize("name", ["A", "eps"])
def test_tensors_elsewhere_are_refused_by_name(name):
    arguments = make_rows((3, 4, 5, 7))
    arguments[WRONG[name][0]] = arguments[WRONG[name][0]].to("meta")
    with pytest.raises(ValueError, match=rf"^{name} is on meta"):
        boundary_step(*arguments)


@pytest.mark.parametrize("name", ["eps_uncond", "w"])
def test_second_prediction_and_w_come_together(name):
    arguments = make_rows((3, 4, 5, 7))
    with pytest.raises(ValueError, match="together"):
        boundary_step(*arguments[:4], **{name: arguments[WRONG[name][0]]})
