"""conv3x3 on CPU, in Triton's interpreter and on a GPU, held to float64; dispatch and refusals."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import csrc_triton.conv3x3 as module
from csrc_triton.conv3x3 import conv3x3

# (rows, channels, height, width, channels out), stride and tiling: one part; ragged pixels, channels
# and outputs in parts; tiles that go over two rows and over three, and that end with a row; parts of
# which the last is shorter; a single pixel; every other pixel of even and odd sizes.
SHAPES = {
    "one-part": ((1, 16, 4, 4, 16), 1, (16, 16, 16, 1, 4, 2)),
    "ragged": ((2, 20, 5, 3, 17), 1, (16, 16, 16, 4, 4, 2)),
    "two-tiles": ((2, 16, 3, 7, 32), 1, (16, 16, 16, 2, 4, 2)),
    "three-rows-a-tile": ((5, 16, 2, 3, 16), 1, (16, 16, 16, 1, 4, 2)),
    "whole-rows": ((2, 16, 4, 4, 16), 1, (16, 16, 16, 3, 4, 2)),
    "last-part-shorter": ((1, 32, 2, 4, 16), 1, (16, 16, 16, 4, 4, 2)),
    "one-pixel": ((1, 16, 1, 1, 16), 1, (16, 16, 16, 9, 4, 2)),
    "halved": ((2, 16, 4, 6, 16), 2, (16, 16, 16, 2, 4, 2)),
    "halved-odd": ((2, 16, 5, 7, 16), 2, (16, 16, 16, 1, 4, 2)),
}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Largest relative error of one rounding: to nearest, but the interpreter truncates to bfloat16.
ROUNDOFF = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-7}
UNIT = 2.0**-23  # of one operation in float32; matrix units truncate their sums
OPERATOR = torch.ops.icd.conv3x3.default
NAMES = ("x", "weight", "bias", "gain", "offset", "shift", "residual")
TILING = (16, 16, 16, 2, 4, 2)


def make(
    shape: tuple[int, ...], dtype=torch.float32, layout=torch.channels_last, stride: int = 1
) -> list[Tensor]:
    """All tensors, in the order of NAMES, of a seeded example."""
    rows, channels, height, width, outer = shape
    generator = torch.Generator().manual_seed(0)

    def normal(*sizes: int, to=dtype) -> Tensor:
        return torch.randn(sizes, generator=generator).to(to)

    x = normal(rows, channels, height, width)
    residual = normal(rows, outer, -(-height // stride), -(-width // stride))
    weight = normal(outer, channels, 3, 3) * (9 * channels) ** -0.5
    norm = [normal(rows, channels, to=torch.float32) for _ in range(2)]
    maps = [given.contiguous(memory_format=layout) for given in (x, weight, residual)]
    return [maps[0], maps[1], normal(outer), *norm, normal(rows, outer), maps[2]]


def in_float64(
    x, weight, bias, gain, offset, shift, residual, stride: int = 1
) -> tuple[Tensor, Tensor]:
    """The formula in float64, and a bound on an implementation's error.

    The norm makes three float32 operations and a SiLU (its slope is below 1.1; an exponential of 2
    ulp, a sum, a division: 5 units of the result) and rounds once. Sums of n products are off by n
    units of their magnitude. The result, and what the plain definition has before each addition,
    round once.
    """
    roundoff = ROUNDOFF[x.dtype]
    a, weight = x.double(), weight.double()
    error = torch.zeros_like(a)
    if gain is not None:
        scaled, moved = (given.double()[:, :, None, None] for given in (gain, offset))
        before = a * scaled + moved
        error = UNIT * 1.1 * 3 * ((a * scaled).abs() + moved.abs())
        a = F.silu(before)
        error = error + (5 * UNIT + roundoff) * a.abs()
    size = F.conv2d(a.abs(), weight.abs(), None, stride, padding=1)
    total = F.conv2d(a, weight, None, stride, padding=1)
    bound = (
        F.conv2d(error, weight.abs(), None, stride, padding=1)
        + (weight[0].numel() + 8) * UNIT * size
    )
    for added in (bias, shift, residual):
        if added is not None:
            wide = {1: (None, slice(None), None, None), 2: (..., None, None), 4: ...}
            total = total + added.double()[wide[added.ndim]]
        bound = (
            bound + roundoff * (total.abs() + bound) + (2.0**-25 if x.dtype.itemsize == 2 else 0)
        )
    return total, bound


def assert_within_rounding(actual: Tensor, arguments: list, stride: int = 1) -> None:
    expected, bound = in_float64(*arguments, stride)
    assert actual.dtype == arguments[0].dtype and actual.shape == expected.shape
    assert ((actual.double() - expected).abs() <= bound).all()


@pytest.fixture
def convolve(implementation: Callable) -> Callable[..., Tensor]:
    """Over the tensors, a stride and a tiling: the registered operator, which asks no table."""
    return implementation(torch.ops.icd.conv3x3, "csrc_triton.conv3x3.kernel")


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize(("shape", "stride", "tiling"), SHAPES.values(), ids=SHAPES)
def test_result_is_within_rounding_of_float64(convolve, shape, stride, tiling, dtype):
    arguments = make(shape, dtype, stride=stride)
    y = convolve(*arguments, stride, tiling)
    assert_within_rounding(y, arguments, stride)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "left_out", [("bias",), ("gain", "offset"), ("shift",), ("residual",), NAMES[2:]], ids="-".join
)
@pytest.mark.parametrize("parts", [1, 3])
def test_what_is_not_given_is_left_out(convolve, parts, left_out):
    arguments = [
        None if name in left_out else given
        for name, given in zip(NAMES, make((2, 16, 3, 3, 16)), strict=True)
    ]
    assert_within_rounding(convolve(*arguments, 1, (16, 16, 16, parts, 4, 2)), arguments)


def test_padding_is_zeros_after_the_norm(convolve):
    """A norm that makes ones of zeros, were it given the padding: corners see four taps of nine."""
    x, weight = torch.zeros(1, 16, 3, 3), torch.ones(16, 16, 3, 3)
    one = torch.full((1, 16), 1.278464542761074)  # SiLU of it is 1
    nothing = torch.zeros(1, 16)
    y = convolve(x, weight, None, nothing, one, None, None, 1, (16, 16, 16, 3, 4, 2))
    taps = torch.tensor([[4.0, 6, 4], [6, 9, 6], [4, 6, 4]])
    torch.testing.assert_close(y, (16 * taps).expand(1, 16, 3, 3), rtol=1e-6, atol=0)


def test_inputs_may_lie_in_memory_anyhow_and_are_left_alone(convolve):
    arguments = make((2, 16, 3, 4, 16), layout=torch.contiguous_format)
    before = [given.clone() for given in arguments]
    first = convolve(*arguments, 1, TILING)
    assert_within_rounding(first, arguments)
    assert torch.equal(first, convolve(*arguments, 1, TILING))
    assert all(map(torch.equal, arguments, before))


def test_no_rows_are_no_error(convolve):
    y = convolve(*make((0, 16, 3, 3, 16), stride=2), 2, TILING)
    assert y.shape == (0, 16, 2, 2)


# --- the operator ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
def test_operator_is_registered_soundly(stride):
    arguments = make((2, 16, 3, 4, 16), torch.bfloat16, stride=stride)
    torch.library.opcheck(OPERATOR, (*arguments, stride, list(TILING)))


def call(*arguments: Tensor, stride: int = 1) -> Tensor:
    named = dict(zip(NAMES[3:], arguments[3:], strict=True))
    return conv3x3(*arguments[:3], **named, stride=stride)


@pytest.mark.parametrize(
    ("measured", "gradients", "taken"),
    [(True, False, True), (True, True, False), (False, False, False)],
)
def test_the_kernel_runs_where_it_was_measured_and_gradients_are_off(
    monkeypatch, measured, gradients, taken
):
    """Traced on tensors that only say they are on a GPU, so that this holds where there is none."""
    asked = []

    def tiling(*given):
        asked.append(given)
        return (64, 64, 64, 4, 8, 4) if measured else None

    monkeypatch.setattr(module, "measured_tiling", tiling)
    with FakeTensorMode():
        arguments = [
            torch.empty(x.shape, dtype=x.dtype, device="cuda")
            for x in make((2, 16, 3, 4, 32), torch.bfloat16)
        ]
    with torch.set_grad_enabled(gradients):
        graph = make_fx(call)(*arguments).graph
    assert (OPERATOR in {node.target for node in graph.nodes}) == taken
    wanted = [("conv3x3", 0, "bfloat16 2 16 3 4 32 1")]
    assert asked == ([] if gradients else wanted)


@pytest.mark.parametrize("stride", [1, 2])
def test_on_the_cpu_it_is_the_definition(stride):
    arguments = make((2, 16, 3, 4, 16), stride=stride)
    assert_within_rounding(call(*arguments, stride=stride), arguments, stride)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert_within_rounding(compiled(*arguments, stride=stride), arguments, stride)


def test_cpu_needs_no_triton():
    code = (
        "import sys; sys.modules['triton'] = None; import torch;"
        "from csrc_triton.conv3x3 import conv3x3; x = torch.ones(1, 1, 3, 3);"
        "assert conv3x3(x, x)[0, 0, 1, 1] == 9"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_arguments_are_refused_by_name(name):
    def spoiled(spoil: Callable) -> Tensor:
        arguments = make((2, 16, 3, 4, 32))
        arguments[NAMES.index(name)] = spoil(arguments[NAMES.index(name)])
        return call(*arguments)

    with pytest.raises(ValueError, match=rf"^{name} must be "):
        spoiled(lambda x: x[0])
    with pytest.raises(TypeError, match=rf"^{name} must be .*torch\.float64"):
        spoiled(Tensor.double)


def test_other_strides_are_refused():
    with pytest.raises(ValueError, match="stride must be 1 or 2, got 3"):
        call(*make((2, 16, 3, 4, 32)), stride=3)


def test_half_a_norm_is_refused():
    x, weight, bias, gain, *_ = make((2, 16, 3, 4, 32))
    with pytest.raises(ValueError, match="gain and offset must both be given"):
        conv3x3(x, weight, bias, gain=gain)
