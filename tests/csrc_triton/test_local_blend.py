"""local_blend on CPU, in Triton's interpreter and on a GPU, held to an independent numpy float64
version."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from csrc_triton.local_blend import local_blend
from csrc_triton.local_blend.reference import local_blend_reference

# (latent height, width), (map height, width): SD at 512, the embedded model, uneven factors, maps
# not enlarged.
SIZES = {
    "sd-512": ((64, 64), (16, 16)),
    "tiny": ((16, 16), (4, 4)),
    "uneven": ((18, 35), (7, 13)),
    "same": ((5, 9), (5, 9)),
    "one-pixel": ((1, 1), (1, 1)),
}
# Number of sources, then source_row of each target: the plain edit, several targets of one picture,
# several pictures in one batch. Each size has one of them: 64x64 latents are 32 programs a row,
# which the interpreter runs one by one.
ROWS = {"one": (1, (0,)), "three-targets": (1, (0, 0, 0)), "two-pictures": (2, (1, 0, 1))}
CASES = [
    ("sd-512", "one"),
    ("tiny", "three-targets"),
    ("uneven", "two-pictures"),
    ("same", "three-targets"),
    ("one-pixel", "two-pictures"),
]


def make_rows(
    size=((16, 16), (4, 4)),
    sources: int = 1,
    source_row: tuple[int, ...] = (0,),
    user_mask: bool = False,
):
    """Keyword arguments of a seeded example; so high a power lets the threshold split the maps."""
    generator = torch.Generator().manual_seed(0)
    latent_size, map_size = size
    targets = len(source_row)
    maps = torch.rand(2, targets, *map_size, generator=generator) ** 32
    return {
        "latents": torch.randn(sources + targets, 4, *latent_size, generator=generator),
        "maps_source": maps[0],
        "maps_target": maps[1],
        "source_row": torch.tensor(source_row, dtype=torch.int64),
        "use_blend": torch.ones(targets, dtype=torch.bool),
    } | ({"user_mask": torch.rand(targets, *latent_size, generator=generator)} if user_mask else {})


def kept_apart(arguments: dict) -> dict:
    """The same example with the source rows in source_latents."""
    latents, sources = (
        arguments["latents"],
        len(arguments["latents"]) - len(arguments["source_row"]),
    )
    return arguments | {
        "latents": latents[sources:].clone(),
        "source_latents": latents[:sources].clone(),
    }


def in_numpy(
    latents, maps_source, maps_target, source_row, use_blend, user_mask=None, threshold=0.3
):
    """Loops over rows and pixels in float64; nearest upsampling is the integer floor(y h / H)."""

    def word_mask(word_map: Tensor) -> np.ndarray:
        h, w = word_map.shape
        padded = np.pad(word_map.double().numpy(), 1, constant_values=-np.inf)
        pooled = np.array(
            [[padded[y : y + 3, x : x + 3].max() for x in range(w)] for y in range(h)]
        )
        enlarged = pooled[np.arange(height) * h // height][:, np.arange(width) * w // width]
        peak = enlarged.max()
        return (
            enlarged / peak > threshold
            if np.isfinite(peak) and peak != 0
            else np.zeros((height, width), bool)
        )

    height, width = latents.shape[2:]
    rows, masks = latents.double().numpy().copy(), []
    sources = len(rows) - len(source_row)
    for i, source in enumerate(source_row.tolist()):
        mask = word_mask(maps_source[i]) | word_mask(maps_target[i]) | (not use_blend[i])
        masks.append(mask * (1.0 if user_mask is None else user_mask[i].double().numpy()))
        rows[sources + i] = rows[source] + masks[i] * (rows[sources + i] - rows[source])
    return rows, np.array(masks)


@pytest.fixture
def blend(implementation: Callable) -> Callable[..., tuple[Tensor, Tensor]]:
    return implementation(local_blend, "csrc_triton.local_blend.kernel")


def assert_equals_numpy(blend: Callable, arguments: dict) -> Tensor:
    """Four roundings (difference, 1 - mask, product, sum) of size 2^-24, each on at most |x_s| +
    |x_t - x_s|."""
    expected, expected_mask = in_numpy(**arguments)
    blended, mask = blend(**arguments)
    assert blended.dtype == mask.dtype == torch.float32
    assert blended.is_contiguous() and mask.is_contiguous()
    assert np.array_equal(mask.double().numpy(), expected_mask)
    magnitude = 3 * arguments["latents"].abs().max().item()
    np.testing.assert_allclose(
        blended.double().numpy(), expected, rtol=0, atol=4 * 2.0**-24 * magnitude
    )
    return mask


@pytest.mark.parametrize("user_mask", [False, True], ids=["words-only", "user-mask"])
@pytest.mark.parametrize(("size", "rows"), CASES)
def test_equals_numpy(blend, size, rows, user_mask):
    assert_equals_numpy(blend, make_rows(SIZES[size], *ROWS[rows], user_mask))


def test_the_example_opens_a_part_of_the_picture():
    """Else the comparison above would say little."""
    share = local_blend(**make_rows(SIZES["sd-512"]))[1].mean().item()
    assert 0.2 < share < 0.8


# 2 -> 82 and 14 -> 46: PyTorch's float32 nearest index differs from the integer one. 40 x 30: a
# large map that is no power of two. Few levels and round thresholds: quotients that are the
# threshold to the last bit.
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
@pytest.mark.parametrize(
    "maps", [lambda x: x, lambda x: (x * 10).ceil(), lambda x: -x], ids=["plain", "ties", "below"]
)
@pytest.mark.parametrize(
    "size", [((82, 3), (2, 2)), ((3, 46), (2, 14)), ((40, 31), (40, 30))], ids=str
)
def test_masks_are_the_reference_s_bit_for_bit(blend, size, maps, threshold):
    arguments = make_rows(size, user_mask=True)
    arguments["maps_source"], arguments["maps_target"] = maps(torch.rand(2, 1, *size[1]) ** 4)
    expected = local_blend_reference(**arguments, threshold=threshold)[1]
    assert torch.equal(blend(**arguments, threshold=threshold)[1], expected)


def test_a_quotient_that_rounds_to_the_threshold_is_closed(blend):
    """3 n / 10 n is 0.3 for every n only where division rounds correctly."""
    n = torch.arange(1.0, 33)[:, None, None]
    arguments = make_rows(((1, 6), (1, 6)), 1, (0,) * 32)
    arguments["maps_source"] = n * torch.tensor([10.0, 0, 0, 0, 3, 0])
    arguments["maps_target"] = torch.zeros(32, 1, 6)
    assert blend(**arguments)[1].tolist() == [[[1, 1, 0, 0, 0, 0]]] * 32


def test_threshold_is_exclusive_and_relative_to_the_maximum(blend):
    arguments = make_rows(((1, 9), (1, 9)))
    arguments["maps_source"] = torch.zeros(1, 1, 9)
    # pooled: 4 4 0 2 2 2 0 3 3
    arguments["maps_target"] = torch.tensor([[[4.0, 0, 0, 0, 2, 0, 0, 0, 3]]])
    _, mask = blend(**arguments, threshold=0.5)
    assert mask.flatten().tolist() == [1, 1, 0, 0, 0, 0, 0, 1, 1]


def test_either_map_opens_a_pixel(blend):
    arguments = make_rows(((1, 8), (1, 8)))
    arguments["maps_source"] = torch.eye(8)[None, :1]
    arguments["maps_target"] = torch.eye(8)[None, -1:]
    assert blend(**arguments)[1].flatten().tolist() == [1, 1, 0, 0, 0, 0, 1, 1]


def test_each_target_has_its_own_source_words(blend):
    """Two targets of one source row: the mask of each comes from its own pair of maps."""
    both = make_rows(SIZES["tiny"], 1, (0, 0))
    together = blend(**both)
    for i in range(2):
        alone = {
            name: both[name][i : i + 1]
            for name in ("maps_source", "maps_target", "source_row", "use_blend")
        }
        blended, mask = blend(latents=both["latents"][[0, 1 + i]], **alone)
        assert torch.equal(mask[0], together[1][i])
        assert torch.equal(blended[1], together[0][1 + i])


def test_source_rows_and_open_pixels_are_untouched_and_closed_pixels_are_the_source(blend):
    arguments = make_rows(SIZES["uneven"], 2, (1, 0, 1))
    # Bit-equality must survive unequal sizes
    arguments["latents"] *= torch.logspace(-3, 3, 5)[:, None, None, None]
    latents = arguments["latents"]
    blended, mask = blend(**arguments)
    opened = mask[:, None].bool().expand_as(latents[2:])
    assert torch.equal(blended[:2], latents[:2])
    assert torch.equal(
        blended[2:], torch.where(opened, latents[2:], latents[arguments["source_row"]])
    )


@pytest.mark.parametrize("user_mask", [False, True], ids=["words-only", "user-mask"])
def test_sources_from_elsewhere_give_the_same_targets(blend, user_mask):
    arguments = make_rows(SIZES["tiny"], 2, (1, 0, 1), user_mask)
    blended, mask = blend(**arguments)
    targets, same_mask = blend(**kept_apart(arguments))
    assert targets.is_contiguous() and torch.equal(targets, blended[2:])
    assert torch.equal(same_mask, mask)


def test_rows_without_blend_words_are_open_and_obey_the_user_mask(blend):
    arguments = make_rows(SIZES["tiny"], 1, (0, 0))
    arguments["use_blend"] = torch.tensor([False, True])
    mask = assert_equals_numpy(blend, arguments)
    assert mask[0].all() and not mask[1].all()
    assert torch.equal(blend(**arguments)[0][1], arguments["latents"][1])
    arguments["user_mask"] = torch.rand(2, 16, 16)
    assert torch.equal(assert_equals_numpy(blend, arguments)[0], arguments["user_mask"][0])


@pytest.mark.parametrize("channels", [1, 3, 16])
def test_any_number_of_channels_is_blended(blend, channels):
    arguments = make_rows(((5, 9), (5, 9)), user_mask=True)
    arguments["latents"] = torch.randn(2, channels, 5, 9)
    assert_equals_numpy(blend, arguments)


def test_layouts_do_not_matter_and_inputs_are_left_alone(blend):
    arguments = make_rows(SIZES["same"], 2, (1, 0, 1), user_mask=True)
    expected, expected_mask = blend(**arguments)
    gaps = {name: torch.stack([x, x], dim=-1)[..., 0] for name, x in arguments.items()}
    channels_last = arguments["latents"].contiguous(memory_format=torch.channels_last)
    apart = {"latents": gaps["latents"][2:], "source_latents": channels_last[:2]}
    for given in (gaps | {"latents": channels_last}, gaps | apart):
        before = {name: x.clone() for name, x in given.items()}
        blended, mask = blend(**given)
        assert blended.is_contiguous() and torch.equal(blended[-3:], expected[-3:])
        assert torch.equal(mask, expected_mask)
        assert all(torch.equal(given[name], x) for name, x in before.items())


def test_without_targets_the_sources_come_back_as_a_copy(blend):
    arguments = make_rows(SIZES["tiny"], 2, ())
    blended, mask = blend(**arguments)
    assert (
        torch.equal(blended, arguments["latents"])
        and blended.data_ptr() != arguments["latents"].data_ptr()
    )
    assert mask.shape == (0, 16, 16)


def zero(maps: Tensor) -> Tensor:
    return maps * 0


def one_nan(maps: Tensor) -> Tensor:
    return maps.index_put(
        (torch.tensor(0), torch.tensor(0), torch.tensor(0)), torch.tensor(torch.nan)
    )


def one_infinite(maps: Tensor) -> Tensor:
    return maps.index_put(
        (torch.tensor(0), torch.tensor(0), torch.tensor(0)), torch.tensor(torch.inf)
    )


@pytest.mark.parametrize("spoil", [zero, one_nan, one_infinite], ids=lambda spoil: spoil.__name__)
def test_a_map_without_a_usable_maximum_opens_nothing(blend, spoil: Callable[[Tensor], Tensor]):
    arguments = make_rows(SIZES["tiny"])
    arguments["maps_source"], arguments["maps_target"] = map(
        spoil, (arguments["maps_source"], arguments["maps_target"])
    )
    blended, mask = blend(**arguments)
    assert not mask.any()
    assert torch.equal(blended[1], blended[0])


@pytest.mark.parametrize("prepare", [dict, kept_apart], ids=["own-sources", "kept-sources"])
@pytest.mark.parametrize("user_mask", [False, True], ids=["words-only", "user-mask"])
def test_operator_is_registered_soundly(user_mask, prepare):
    arguments = prepare(make_rows(SIZES["tiny"], 2, (1, 0, 1), user_mask))
    torch.library.opcheck(torch.ops.icd.local_blend.default, (), arguments)


@pytest.mark.parametrize("prepare", [dict, kept_apart], ids=["own-sources", "kept-sources"])
def test_compiles_whole_and_once_for_all_steps(prepare):
    """No inductor: a bare machine has no C++ compiler, and whole and once is decided before it."""
    torch.compiler.reset()  # what an earlier test compiled must not show here
    compiled = torch.compile(local_blend, fullgraph=True, backend="aot_eager")
    arguments = prepare(make_rows(SIZES["tiny"], user_mask=True))
    assert all(map(torch.equal, compiled(**arguments), local_blend(**arguments)))
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled(**{name: tensor.flip(-1) for name, tensor in arguments.items()})


class Blend(torch.nn.Module):
    def forward(self, latents, maps_source, maps_target, source_row, use_blend, user_mask):
        return local_blend(
            latents, maps_source, maps_target, source_row, use_blend=use_blend, user_mask=user_mask
        )


def test_exports_as_plain_pytorch():
    arguments = make_rows(SIZES["tiny"], 1, (0, 0), user_mask=True)
    program = torch.export.export(Blend(), (), arguments)
    assert not [node for node in program.graph.nodes if "icd" in str(node.target)]
    torch.testing.assert_close(
        program.module()(**arguments), local_blend(**arguments), rtol=0, atol=0
    )


def test_gradients_reach_targets_where_open_and_sources_where_closed():
    arguments = make_rows(SIZES["tiny"])
    latents = arguments["latents"].requires_grad_()
    blended, mask = local_blend(**arguments)
    blended[1].sum().backward()
    assert torch.equal(
        latents.grad, torch.stack([1 - mask[0], mask[0]])[:, None].expand_as(latents)
    )


WRONG = {
    "latents": lambda x: x[:1],
    "maps_source": lambda x: x[0],
    "maps_target": lambda x: x[:, :-1],
    "source_row": lambda x: x[:, None],
    "use_blend": lambda x: x[:1],
    "user_mask": lambda x: x[:, None],
    "source_latents": lambda x: x[:, :1],
}


def rows_with(name: str) -> dict:
    arguments = make_rows(SIZES["tiny"], 1, (0, 0), user_mask=True)
    return kept_apart(arguments) if name == "source_latents" else arguments


@pytest.mark.parametrize("name", WRONG)
def test_wrong_shapes_are_refused_by_name(name):
    arguments = rows_with(name)
    with pytest.raises(ValueError, match=rf"^{name} "):
        local_blend(**arguments | {name: WRONG[name](arguments[name])})


@pytest.mark.parametrize("name", WRONG)
def test_wrong_dtypes_are_refused_by_name(name):
    arguments = rows_with(name)
    with pytest.raises(TypeError, match=rf"^{name} .*float16"):
        local_blend(**arguments | {name: arguments[name].half()})


@pytest.mark.parametrize("name", [name for name in WRONG if name != "latents"])
def test_tensors_elsewhere_are_refused_by_name(name):
    arguments = rows_with(name)
    with pytest.raises(ValueError, match=rf"^{name} is on meta"):
        local_blend(**arguments | {name: arguments[name].to("meta")})


def test_kept_sources_need_rows_and_leave_none_in_latents():
    arguments = rows_with("source_latents")
    with pytest.raises(ValueError, match=r"^source_latents .*S > 0"):
        local_blend(**arguments | {"source_latents": arguments["source_latents"][:0]})
    with pytest.raises(ValueError, match=r"^latents must be the 2 targets"):
        local_blend(**arguments | {"latents": torch.zeros(3, 4, 16, 16)})


@pytest.mark.parametrize("cells", [(0, 4), (4, 17)], ids=["no-cells", "larger-than-latents"])
def test_maps_of_unusable_size_are_refused(cells):
    maps = torch.zeros(1, *cells)
    with pytest.raises(ValueError, match=r"^maps_source must be 1 x 1 to the latents' 16 x 16"):
        local_blend(**make_rows() | {"maps_source": maps, "maps_target": maps})


@pytest.mark.parametrize("threshold", [-0.1, float("nan")])
def test_thresholds_below_zero_are_refused(threshold):
    with pytest.raises(ValueError, match=r"^threshold "):
        local_blend(**make_rows(), threshold=threshold)
