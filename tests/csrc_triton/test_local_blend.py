"""local_blend against an independent numpy float64 version: masks identical, latents within float32 rounding."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from csrc_triton.local_blend import local_blend
from csrc_triton.local_blend.reference import local_blend_reference

# (latent height, width), (map height, width): SD at 512, the embedded model, uneven factors, maps not enlarged.
SIZES = {
    "sd-512": ((64, 64), (16, 16)),
    "tiny": ((16, 16), (4, 4)),
    "uneven": ((18, 35), (7, 13)),
    "same": ((5, 9), (5, 9)),
    "one-pixel": ((1, 1), (1, 1)),
}
# source_row of each target: the plain edit, several targets of one picture, several pictures in one batch.
ROWS = {"one": (1, [0]), "three-targets": (1, [0, 0, 0]), "two-pictures": (2, [1, 0, 1])}


def make_rows(size=((16, 16), (4, 4)), sources: int = 1, source_row: tuple[int, ...] = (0,), user_mask: bool = False):
    """Keyword arguments of a seeded example; so high a power lets the threshold split the maps."""
    generator = torch.Generator().manual_seed(0)
    latent_size, map_size = size
    targets = len(source_row)
    maps = torch.rand(2, targets, *map_size, generator=generator) ** 32
    return {
        "latents": torch.randn(sources + targets, 4, *latent_size, generator=generator),
        "maps_source": maps[0],
        "maps_target": maps[1],
        "source_row": torch.tensor(source_row),
        "use_blend": torch.ones(targets, dtype=torch.bool),
        "user_mask": torch.rand(targets, *latent_size, generator=generator) if user_mask else None,
    }


def in_numpy(latents, maps_source, maps_target, source_row, use_blend, user_mask=None, threshold=0.3):
    """Loops over rows and pixels in float64; nearest upsampling is the integer floor(y h / H)."""

    def word_mask(word_map: Tensor) -> np.ndarray:
        h, w = word_map.shape
        padded = np.pad(word_map.double().numpy(), 1, constant_values=-np.inf)
        pooled = np.array([[padded[y : y + 3, x : x + 3].max() for x in range(w)] for y in range(h)])
        enlarged = pooled[np.arange(height) * h // height][:, np.arange(width) * w // width]
        peak = enlarged.max()
        return enlarged / peak > threshold if np.isfinite(peak) and peak != 0 else np.zeros((height, width), bool)

    height, width = latents.shape[2:]
    rows, masks = latents.double().numpy().copy(), []
    sources = len(rows) - len(source_row)
    for i, source in enumerate(source_row.tolist()):
        mask = word_mask(maps_source[i]) | word_mask(maps_target[i]) | (not use_blend[i])
        masks.append(mask * (1.0 if user_mask is None else user_mask[i].double().numpy()))
        rows[sources + i] = rows[source] + masks[i] * (rows[sources + i] - rows[source])
    return rows, np.array(masks)


def assert_equals_numpy(arguments: dict) -> Tensor:
    """Four roundings (difference, 1 - mask, product, sum) of size 2^-24, each on at most |x_s| + |x_t - x_s|."""
    expected, expected_mask = in_numpy(**arguments)
    blended, mask = local_blend(**arguments)
    assert blended.dtype == mask.dtype == torch.float32
    assert np.array_equal(mask.double().numpy(), expected_mask)
    magnitude = 3 * arguments["latents"].abs().max().item()
    np.testing.assert_allclose(blended.double().numpy(), expected, rtol=0, atol=4 * 2.0**-24 * magnitude)
    return mask


@pytest.mark.parametrize("user_mask", [False, True], ids=["words-only", "user-mask"])
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_equals_numpy(size, rows, user_mask):
    assert_equals_numpy(make_rows(size, *rows, user_mask))


def test_the_example_opens_a_part_of_the_picture():
    """Else the comparison above would say little."""
    share = assert_equals_numpy(make_rows(SIZES["sd-512"])).mean().item()
    assert 0.2 < share < 0.8


def test_threshold_is_exclusive_and_relative_to_the_maximum():
    arguments = make_rows(((1, 9), (1, 9)))
    arguments["maps_source"] = torch.zeros(1, 1, 9)
    arguments["maps_target"] = torch.tensor([[[4.0, 0, 0, 0, 2, 0, 0, 0, 3]]])  # pooled: 4 4 0 2 2 2 0 3 3
    _, mask = local_blend(**arguments, threshold=0.5)
    assert mask.flatten().tolist() == [1, 1, 0, 0, 0, 0, 0, 1, 1]


def test_either_map_opens_a_pixel():
    arguments = make_rows(((1, 8), (1, 8)))
    arguments["maps_source"] = torch.eye(8)[None, :1]
    arguments["maps_target"] = torch.eye(8)[None, -1:]
    assert local_blend(**arguments)[1].flatten().tolist() == [1, 1, 0, 0, 0, 0, 1, 1]


def test_each_target_has_its_own_source_words():
    """Two targets of one source row: the mask of each comes from its own pair of maps."""
    both = make_rows(SIZES["tiny"], 1, (0, 0))
    for i in range(2):
        alone = {name: both[name][i : i + 1] for name in ("maps_source", "maps_target", "source_row", "use_blend")}
        blended, mask = local_blend(latents=both["latents"][[0, 1 + i]], **alone)
        assert torch.equal(mask[0], local_blend(**both)[1][i])
        assert torch.equal(blended[1], local_blend(**both)[0][1 + i])


def test_source_rows_and_open_pixels_are_untouched_and_closed_pixels_are_the_source():
    arguments = make_rows(SIZES["uneven"], 2, (1, 0, 1))
    arguments["latents"] *= torch.logspace(-3, 3, 5)[:, None, None, None]  # bit-equality must survive unequal sizes
    latents = arguments["latents"]
    blended, mask = local_blend(**arguments)
    opened = mask[:, None].bool().expand_as(latents[2:])
    assert torch.equal(blended[:2], latents[:2])
    assert torch.equal(blended[2:], torch.where(opened, latents[2:], latents[arguments["source_row"]]))


def test_rows_without_blend_words_are_open_and_obey_the_user_mask():
    arguments = make_rows(SIZES["tiny"], 1, (0, 0))
    arguments["use_blend"] = torch.tensor([False, True])
    mask = assert_equals_numpy(arguments)
    assert mask[0].all() and not mask[1].all()
    assert torch.equal(local_blend(**arguments)[0][1], arguments["latents"][1])
    arguments["user_mask"] = torch.rand(2, 16, 16)
    assert torch.equal(assert_equals_numpy(arguments)[0], arguments["user_mask"][0])


def zero(maps: Tensor) -> Tensor:
    return maps * 0


def one_nan(maps: Tensor) -> Tensor:
    return maps.index_put((torch.tensor(0), torch.tensor(0), torch.tensor(0)), torch.tensor(torch.nan))


def one_infinite(maps: Tensor) -> Tensor:
    return maps.index_put((torch.tensor(0), torch.tensor(0), torch.tensor(0)), torch.tensor(torch.inf))


@pytest.mark.parametrize("spoil", [zero, one_nan, one_infinite], ids=lambda spoil: spoil.__name__)
def test_a_map_without_a_usable_maximum_opens_nothing(spoil: Callable[[Tensor], Tensor]):
    arguments = make_rows(SIZES["tiny"])
    arguments["maps_source"], arguments["maps_target"] = map(
        spoil, (arguments["maps_source"], arguments["maps_target"])
    )
    blended, mask = local_blend(**arguments)
    assert not mask.any()
    assert torch.equal(blended[1], blended[0])


@pytest.mark.parametrize("user_mask", [False, True], ids=["words-only", "user-mask"])
def test_operator_is_registered_soundly(user_mask):
    torch.library.opcheck(torch.ops.icd.local_blend.default, (), make_rows(SIZES["tiny"], 2, (1, 0, 1), user_mask))


def test_compiles_whole_and_once_for_all_steps():
    compiled = torch.compile(local_blend, fullgraph=True)
    arguments = make_rows(SIZES["tiny"], user_mask=True)
    assert all(map(torch.equal, compiled(**arguments), local_blend(**arguments)))
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled(**{name: tensor.flip(-1) for name, tensor in arguments.items()})


class Blend(torch.nn.Module):
    def forward(self, latents, maps_source, maps_target, source_row, use_blend, user_mask):
        return local_blend(latents, maps_source, maps_target, source_row, use_blend=use_blend, user_mask=user_mask)


def test_exports_and_decomposes_to_the_reference():
    arguments = make_rows(SIZES["tiny"], 1, (0, 0), user_mask=True)
    operator = torch.ops.icd.local_blend.default
    program = torch.export.export(Blend(), (), arguments)
    assert operator in {node.target for node in program.graph.nodes}

    plain = program.run_decompositions({operator: local_blend_reference})

    assert operator not in {node.target for node in plain.graph.nodes}
    torch.testing.assert_close(plain.module()(**arguments), local_blend(**arguments), rtol=0, atol=0)


WRONG = {
    "latents": lambda x: x[:1],
    "maps_source": lambda x: x[0],
    "maps_target": lambda x: x[:, :-1],
    "source_row": lambda x: x[:, None],
    "use_blend": lambda x: x[:1],
    "user_mask": lambda x: x[:, None],
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_shapes_are_refused_by_name(name):
    arguments = make_rows(SIZES["tiny"], 1, (0, 0), user_mask=True)
    with pytest.raises(ValueError, match=rf"^{name} "):
        local_blend(**arguments | {name: WRONG[name](arguments[name])})


@pytest.mark.parametrize("name", WRONG)
def test_wrong_dtypes_are_refused_by_name(name):
    arguments = make_rows(user_mask=True)
    with pytest.raises(TypeError, match=rf"^{name} .*float16"):
        local_blend(**arguments | {name: arguments[name].half()})


@pytest.mark.parametrize("threshold", [-0.1, float("nan")])
def test_thresholds_below_zero_are_refused(threshold):
    with pytest.raises(ValueError, match=r"^threshold "):
        local_blend(**make_rows(), threshold=threshold)
