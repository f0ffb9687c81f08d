"""self_attention on CPU, in Triton's interpreter and on a GPU, held to float64; dispatch and
refusals."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import csrc_triton.self_attention as module
from csrc_triton.self_attention import self_attention
from tests.csrc_triton.edited_attention.rows import ROUNDOFF, SUBNORMAL, map_and_error, merged

# (rows, heads, queries, keys, head), and the tiling: heads in two tiles and in one, keys that fill
# no step, several blocks of queries, a single key.
SHAPES = {
    "sd-40": ((2, 2, 9, 20, 40), (16, 16, 4, 2)),
    "sd-80-two-blocks": ((1, 1, 20, 33, 80), (16, 16, 4, 2)),
    "sd-160": ((1, 1, 5, 17, 160), (16, 16, 4, 2)),
    "64-whole-steps": ((1, 2, 16, 32, 64), (16, 16, 4, 2)),
    "23": ((1, 1, 3, 7, 23), (16, 16, 4, 2)),
    "one-key": ((1, 1, 4, 1, 16), (16, 32, 4, 2)),
}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
OPERATOR = torch.ops.icd.self_attention.default
TILING = (16, 16, 4, 2)


def spread(x: Tensor) -> Tensor:
    """Channels apart in memory: nothing a kernel reads in place."""
    return torch.stack([x, x + 1], dim=-1).flatten(-2)[..., ::2]


def make(shape: tuple[int, ...], dtype=torch.float32, layout: Callable = merged) -> list[Tensor]:
    rows, heads, queries, keys, size = shape
    generator = torch.Generator().manual_seed(0)
    return [
        layout(torch.randn(rows, heads, length, size, generator=generator).to(dtype))
        for length in (queries, keys, keys)
    ]


def in_float64(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The formula in float64, and a bound on an implementation's error.

    To the map's own error come, for every key at most, one rescaling of what was added up before
    (two exponentials of 2 ulp and a product: 6 units), and one rounding of the share to the values'
    dtype; sums of n products are off by n units; the result rounds once.
    """
    shares, relative = map_and_error(q, k)
    roundoff = ROUNDOFF[q.dtype]
    relative = relative + (6 * k.shape[2] + k.shape[2]) * 2.0**-23 + roundoff
    expected = shares @ v.double()
    bound = relative * (shares @ v.double().abs())
    return expected, bound + roundoff * (expected.abs() + bound) + SUBNORMAL[q.dtype]


def assert_within_rounding(actual: Tensor, arguments: list[Tensor]) -> None:
    expected, bound = in_float64(*arguments)
    assert actual.dtype == arguments[0].dtype and actual.shape == expected.shape
    assert ((actual.double() - expected).abs() <= bound).all()


@pytest.fixture
def attend(implementation: Callable) -> Callable[..., Tensor]:
    """Over q, k, v and a tiling: the registered operator, which asks no table."""
    return implementation(torch.ops.icd.self_attention, "csrc_triton.self_attention.kernel")


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize(("shape", "tiling"), SHAPES.values(), ids=SHAPES)
def test_result_is_within_rounding_of_float64(attend, shape, tiling, dtype):
    arguments = make(shape, dtype)
    out = attend(*arguments, tiling)
    assert_within_rounding(out, arguments)
    assert out.transpose(1, 2).is_contiguous()  # merging the heads is a view


@pytest.mark.parametrize("layout", [torch.clone, spread], ids=lambda layout: layout.__name__)
def test_inputs_may_lie_in_memory_anyhow_and_are_left_alone(attend, layout):
    arguments = make((2, 2, 5, 20, 40), layout=layout)
    before = [given.clone() for given in arguments]
    first = attend(*arguments, TILING)
    assert_within_rounding(first, arguments)
    assert torch.equal(first, attend(*arguments, TILING))
    assert all(map(torch.equal, arguments, before))


def test_scores_beyond_the_range_of_exp_pick_one_key(attend):
    """Scores of hundreds that grow from step to step, so that all before are scaled away."""
    q, k, v = make((1, 1, 4, 40, 16), torch.float16)
    growing = torch.linspace(1, 40, 40, dtype=torch.float16)[:, None]
    arguments = [q * 16, k * growing, v]
    out = attend(*arguments, TILING)
    assert out.isfinite().all()
    assert_within_rounding(out, arguments)


@pytest.mark.parametrize("shape", [(0, 2, 5, 5, 16), (1, 2, 0, 5, 16)])
def test_nothing_to_do_is_no_error(attend, shape):
    assert attend(*make(shape), TILING).shape == (*shape[:3], 16)


# --- the operator ---------------------------------------------------------------------------------


def test_operator_is_registered_soundly():
    arguments = make((2, 2, 5, 7, 40), torch.bfloat16)
    torch.library.opcheck(OPERATOR, (*arguments, list(TILING)))


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
        return TILING if measured else None

    monkeypatch.setattr(module, "measured_tiling", tiling)
    with FakeTensorMode():
        arguments = [
            torch.empty(x.shape, dtype=x.dtype, device="cuda")
            for x in make((2, 8, 6, 7, 40), torch.bfloat16)
        ]
    with torch.set_grad_enabled(gradients):
        graph = make_fx(self_attention)(*arguments).graph
    assert (OPERATOR in {node.target for node in graph.nodes}) == taken
    assert asked == ([] if gradients else [("self_attention", 0, "bfloat16 2 8 6 7 40")])


def test_on_the_cpu_it_is_pytorchs_own():
    arguments = make((2, 2, 5, 7, 40))
    assert_within_rounding(self_attention(*arguments), arguments)
    compiled = torch.compile(self_attention, fullgraph=True, backend="aot_eager")
    assert_within_rounding(compiled(*arguments), arguments)


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_wrong_arguments_are_refused_by_name(name):
    def spoiled(spoil: Callable) -> Tensor:
        arguments = make((2, 2, 5, 7, 40))
        arguments["qkv".index(name)] = spoil(arguments["qkv".index(name)])
        return self_attention(*arguments)

    with pytest.raises(ValueError, match=rf"^{name} must be "):
        spoiled(lambda x: x[0])
    with pytest.raises(TypeError, match=rf"^{name} must be .*torch\.float64"):
        spoiled(Tensor.double)


def test_attention_to_nothing_is_refused():
    with pytest.raises(ValueError, match=r"^k must have positions and channels"):
        self_attention(*make((1, 1, 3, 0, 16)))
