"""edited_attention on CPU, in Triton's interpreter and on a GPU, held to float64; dispatch, export
and refusals."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from csrc_triton.edited_attention import edited_attention
from csrc_triton.edited_attention.reference import edited_attention_reference

# (sources, source of each target, heads, positions, tokens, head size). Every head size of SD1.5
# and of the embedded model, prompts of one tile (8, 64) and of two (20, 77, 154), positions that
# fill no block of 16, 32 or 64.
SHAPES = {
    "sd-40": (1, (0,), 2, 9, 77, 40),
    "sd-80": (1, (0,), 1, 5, 77, 80),
    "sd-160-two-targets": (1, (0, 0), 1, 3, 77, 160),
    "tiny-16-two-blocks": (1, (0,), 1, 70, 77, 16),
    "tiny-32": (1, (0,), 1, 17, 77, 32),
    "64-permuted": (2, (1, 0, 1), 1, 3, 8, 64),
    "long-prompt": (1, (0,), 1, 17, 154, 40),
    "odd-sources-without-target": (3, (1,), 1, 4, 20, 23),
    "one-of-all": (1, (0,), 1, 1, 1, 1),
    "no-targets": (2, (), 1, 3, 64, 16),
}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Largest relative error of one rounding: to nearest, but the interpreter truncates to bfloat16.
ROUNDOFF = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-7}
# And absolute, in our range of numbers
SUBNORMAL = {torch.float32: 0.0, torch.float16: 2.0**-25, torch.bfloat16: 0.0}
GIVEN = {"all": 9, "no-columns": 8, "no-source-values": 7}
NAMES = ("q", "k", "gained", "source_q", "source_k", "mixed", "source_row", "source_v", "columns")
OPERATOR = torch.ops.icd.edited_attention.default


def merged(x: Tensor) -> Tensor:
    """[rows, length, heads x size], as a projection leaves it, split into heads without a copy."""
    rows, heads, length, size = x.shape
    memory = x.new_empty(rows, length, heads * size)
    view = memory.unflatten(-1, (heads, size)).transpose(1, 2)
    return view.copy_(x)


def one_of_three(x: Tensor) -> Tensor:
    """The same, where the projection is q, k and v at once; the first element is not aligned to 16
    bytes either."""
    return merged(torch.cat([x + 1, x, x - 1], dim=-1))[..., x.shape[-1] : 2 * x.shape[-1]]


def spread(x: Tensor) -> Tensor:
    """Channels apart in memory: nothing a kernel reads in place."""
    return torch.stack([x, x + 1], dim=-1).flatten(-2)[..., ::2]


def make_rows(shape: tuple, dtype=torch.float32, layout: Callable = merged) -> list[Tensor]:
    """Arguments in the order of NAMES of a seeded example; queries, keys and values of all rows are
    one tensor each."""
    sources, source_row, heads, positions, tokens, size = shape
    generator = torch.Generator().manual_seed(0)
    targets = len(source_row)

    def heads_of(rows: int, length: int) -> Tensor:
        return layout(torch.randn(rows, heads, length, size, generator=generator).to(dtype))

    q, k = heads_of(sources + targets, positions), heads_of(sources + targets, tokens)
    source_v, gained, mixed = (heads_of(rows, tokens) for rows in (sources, targets, targets))
    columns = torch.rand(3, targets, tokens, generator=generator)
    row = torch.tensor(source_row, dtype=torch.int64)
    return [
        q[sources:],
        k[sources:],
        gained,
        q[:sources],
        k[:sources],
        mixed,
        row,
        source_v,
        columns,
    ]


def call(*arguments: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The public call over positional arguments, as the kernel's launch takes them."""
    source_v, columns = (*arguments[7:], None, None)[:2]
    return edited_attention(*arguments[:7], source_v=source_v, columns=columns)


def map_and_error(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(q k^T / sqrt(d)) in float64 and a bound [R, H, N, 1] on the relative error of a
    float32 evaluation.

    u = 2^-23 bounds the error of one operation (matrix units truncate their sums). A score has d
    products, as many sums, its scaling, the rounded scale and the subtraction of the peak, all
    relative to A = sum |q k| / sqrt(d): an error of (d + 8) u A in the exponent, for the number
    above the fraction and for those below. To that come the exponentials (2 ulp each, twice), the
    sum of n of them, and the division.
    """
    q, k, scale, unit = q.double(), k.double(), k.shape[-1] ** -0.5, 2.0**-23
    size, tokens = q.shape[-1], k.shape[-2]
    magnitude = (q.abs() @ k.abs().mT * scale).amax(dim=-1, keepdim=True)
    return (q @ k.mT * scale).softmax(dim=-1), unit * (2 * (size + 8) * magnitude + tokens + 12)


def in_float64(q, k, gained, source_q, source_k, mixed, source_row, source_v=None, columns=None):
    """((out, bound), (maps, bound)): the formulas in float64 and bounds on an implementation's
    error.

    A map may be rounded to the values' dtype before its product with them, whose sums have n terms
    for each map, and the result is rounded to that dtype. Word maps stay float32 throughout: only
    their sums and the mean over the heads add to the error of the map.
    """
    dtype, heads, tokens, unit = q.dtype, q.shape[1], k.shape[2], 2.0**-23
    (P_s, error_s), (P_t, error_t) = map_and_error(source_q, source_k), map_and_error(q, k)
    own, error_own = P_s, error_s
    P_s, error_s = P_s[source_row], error_s[source_row]

    def product(*terms: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        result = sum(P @ v.double() for P, _, v in terms)
        more = ROUNDOFF[dtype] + 2 * (tokens + 1) * unit
        bound = sum((error + more) * (P @ v.double().abs()) for P, error, v in terms)
        lost = SUBNORMAL[dtype] * (
            1 + sum(v.double().abs().sum(dim=2, keepdim=True) for _, _, v in terms)
        )
        return result, 1.01 * bound + ROUNDOFF[dtype] * result.abs() + lost

    def word_map(*terms: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        weighted = [(P * column.double()[:, None, None], error) for P, error, column in terms]
        bound = sum((error + (2 * tokens + heads + 4) * unit) * w for w, error in weighted)
        return sum(w for w, _ in weighted).sum(-1).mean(1), 1.01 * bound.sum(-1).mean(1)

    outs = [product((P_s, error_s, mixed), (P_t, error_t, gained))]
    if source_v is not None:
        outs.insert(0, product((own, error_own, source_v)))
    maps = None
    if columns is not None:
        source_map = word_map((P_s, error_s, columns[0]))
        maps = stack(
            [source_map, word_map((P_s, error_s, columns[1]), (P_t, error_t, columns[2]))],
            torch.stack,
        )
    return stack(outs, torch.cat), maps


def stack(parts: list[tuple[Tensor, Tensor]], join: Callable) -> tuple[Tensor, Tensor]:
    results, bounds = zip(*parts, strict=True)
    return join(results), join(bounds)


def assert_within_rounding(actual: tuple[Tensor, Tensor | None], arguments: list[Tensor]) -> None:
    (out, maps), ((expected, bound), expected_maps) = actual, in_float64(*arguments)
    assert out.dtype == arguments[0].dtype and out.shape == expected.shape
    assert out.transpose(1, 2).is_contiguous()  # merging the heads is a view
    assert ((out.double() - expected).abs() <= bound).all()
    if expected_maps is None:
        assert maps is None or not maps.numel()
    else:
        assert maps.dtype == torch.float32 and maps.shape == expected_maps[0].shape
        assert ((maps.double() - expected_maps[0]).abs() <= expected_maps[1]).all()


@pytest.fixture
def attend(implementation: Callable) -> Callable[..., tuple[Tensor, Tensor | None]]:
    return implementation(call, "csrc_triton.edited_attention.kernel")


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_result_is_within_rounding_of_float64(attend, shape, dtype):
    arguments = make_rows(shape, dtype)
    assert_within_rounding(attend(*arguments), arguments)


@pytest.mark.parametrize("given", [7, 8], ids=["no-source-values", "no-columns"])
@pytest.mark.parametrize("shape", ["sd-40", "64-permuted", "odd-sources-without-target"])
def test_sources_and_maps_are_left_out_where_not_asked_for(attend, shape, given):
    arguments = make_rows(SHAPES[shape], torch.float16)[:given]
    assert_within_rounding(attend(*arguments), arguments)


def test_maps_without_source_values(attend):
    arguments = make_rows(SHAPES["64-permuted"])
    arguments[7] = None
    assert_within_rounding(attend(*arguments), arguments)


@pytest.mark.parametrize(
    "layout", [torch.clone, one_of_three, spread], ids=lambda layout: layout.__name__
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
def test_inputs_may_lie_in_memory_anyhow(attend, dtype, layout):
    arguments = make_rows((1, (0,), 3, 4, 8, 20), dtype, layout)
    arguments[8] = arguments[8].flip(1).mT.contiguous().mT
    assert_within_rounding(attend(*arguments), arguments)


def test_inputs_may_lie_in_memory_each_its_own_way(attend):
    q, k, gained, source_q, *others = make_rows((2, (1,), 2, 4, 8, 20), layout=torch.clone)
    arguments = [
        merged(q),
        one_of_three(k),
        spread(gained),
        source_q[:1].expand_as(source_q),
        *others,
    ]
    assert_within_rounding(attend(*arguments), arguments)


def test_no_replacement_is_ordinary_attention(attend):
    """S = 0 and d = 1: both rows are what PyTorch's attention says.

    Two float32 evaluations, so twice the bound.
    """
    arguments = make_rows(SHAPES["sd-40"])
    q, k, v, source_q, source_k, mixed, _, source_v, _ = arguments
    arguments[5] = torch.zeros_like(mixed)
    out, _ = attend(*arguments)
    stock = F.scaled_dot_product_attention(
        torch.cat([source_q, q]), torch.cat([source_k, k]), torch.cat([source_v, v])
    )
    assert ((out - stock).abs() <= 2 * in_float64(*arguments)[0][1]).all()


def test_full_replacement_gives_both_rows_the_source_map(attend):
    """S = 1 and d = 0 with equal values: the target's row is the source's, whatever the target's
    own queries say."""
    arguments = make_rows(SHAPES["sd-40"])
    arguments[2], arguments[5] = torch.zeros_like(arguments[2]), arguments[7]
    (source, target), _ = attend(*arguments)
    torch.testing.assert_close(target, source, rtol=0, atol=1e-6)


def test_maps_of_all_words_are_all_attention(attend):
    """Rows of a map sum to 1, so columns of ones give 1, and shares c and 1 - c of two maps give 1
    as well."""
    arguments = make_rows(SHAPES["64-permuted"])
    arguments[8] = torch.tensor([1.0, 0.25, 0.75])[:, None, None].expand_as(arguments[8])
    _, maps = attend(*arguments)
    torch.testing.assert_close(maps, torch.ones_like(maps), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
def test_scores_beyond_the_range_of_exp_pick_one_token(attend, dtype):
    """Scores of hundreds, in float16 too, where exp ends at 11."""
    arguments = make_rows((1, (0,), 1, 4, 20, 16), dtype)
    arguments[0], arguments[3] = arguments[0] * 64, arguments[3] * 64
    out, maps = attend(*arguments)
    assert out.isfinite().all() and maps.isfinite().all()
    assert_within_rounding((out, maps), arguments)


def test_rows_and_heads_do_not_meet(attend):
    """A row that is not finite spoils itself and the targets of its own map, no other."""
    arguments = make_rows((2, (1, 0), 2, 3, 8, 16))
    spoiled = [argument.clone() for argument in arguments]
    # Source 0, head 1, position 2: source row 0 and target 1, row 3 of out
    spoiled[3][0, 1, 2] = torch.nan
    (clean, _), (beside, _) = attend(*arguments), attend(*spoiled)
    hit = torch.zeros_like(clean, dtype=torch.bool)
    hit[[0, 3], 1, 2] = True
    assert beside[hit].isnan().all() and torch.equal(beside[~hit], clean[~hit])


@pytest.mark.parametrize(
    "shape", [(1, (0,), 2, 0, 8, 16), (0, (), 2, 5, 8, 16)], ids=["no-positions", "no-rows"]
)
def test_nothing_to_do_is_no_error(attend, shape):
    out, maps = attend(*make_rows(shape))
    assert out.shape == (shape[0] + len(shape[1]), 2, shape[3], 16) and maps.shape == (
        2,
        len(shape[1]),
        shape[3],
    )


def test_inputs_are_left_alone_and_results_repeat(attend):
    arguments = make_rows(SHAPES["64-permuted"])
    before = [argument.clone() for argument in arguments]
    first, again = attend(*arguments), attend(*arguments)
    assert all(map(torch.equal, first, again))
    assert all(map(torch.equal, arguments, before))


def test_parts_cover_the_prompt_and_waste_little():
    pytest.importorskip("triton")
    from csrc_triton.edited_attention.kernel import LARGEST_PROMPT
    from csrc_triton.edited_attention.tiles import part, rest

    assert [(part(n), rest(n)) for n in (8, 77, 128, 154)] == [
        (16, 0),
        (64, 16),
        (128, 0),
        (128, 32),
    ]
    for tokens in range(1, LARGEST_PROMPT + 1):
        tiles = [tile for tile in (part(tokens), rest(tokens)) if tile]
        assert tokens <= sum(tiles) < max(2 * tokens, 17)
        assert all(tile >= 16 and tile & (tile - 1) == 0 for tile in tiles)


@pytest.mark.parametrize(
    ("capability", "tokens", "expected"),
    [((7, 5), 77, False), ((8, 0), 77, True), ((9, 0), 257, False)],
)
def test_the_kernel_is_for_matrix_units_and_prompts_that_fit(
    monkeypatch, capability, tokens, expected
):
    pytest.importorskip("triton")
    from csrc_triton.edited_attention.kernel import fits

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    q, k, *_ = make_rows((1, (0,), 1, 2, tokens, 16))
    assert fits(q, k) == expected


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
