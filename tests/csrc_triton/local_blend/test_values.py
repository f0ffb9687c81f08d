"""local_blend on CPU, in Triton's interpreter and on a GPU, held to an independent numpy float64
version."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from csrc_triton.local_blend import local_blend
from csrc_triton.local_blend.reference import local_blend_reference
from tests.csrc_triton.local_blend.rows import SIZES, kept_apart, make_rows

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
