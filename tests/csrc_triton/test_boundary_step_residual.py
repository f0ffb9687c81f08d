"""boundary_step with the residual of an anchored decoding, on CPU, in Triton's interpreter and on a
GPU."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from csrc_triton.boundary_step import boundary_step
from tests.csrc_triton.test_boundary_step import SHAPES, in_float64, make_rows

ROUNDING = 2.0**-24


@pytest.fixture
def step(implementation: Callable) -> Callable[..., Tensor]:
    return implementation(boundary_step, "csrc_triton.boundary_step.kernel")


def held(shape: tuple[int, ...], sources: int = 2) -> list[Tensor]:
    """residual, source_row and share: rows take from sources in an order that is not their own."""
    generator = torch.Generator().manual_seed(5)
    residual = torch.randn((sources, *shape[1:]), generator=generator)
    source_row = (torch.arange(shape[0]) + 1) % sources
    return [residual, source_row, torch.rand(sources, generator=generator)]


@pytest.mark.parametrize("guided", [False, True], ids=["unguided", "guided"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_each_row_takes_its_share_of_its_sources_residual(step, shape, guided):
    """Two roundings more than without: the product, and the sum."""
    rows = make_rows(shape)[: 6 if guided else 4]
    rows += [None] * (6 - len(rows))
    residual, source_row, share = held(shape)
    plain, bound = in_float64(*rows)
    added = (share.double().view(-1, 1, 1, 1) * residual)[source_row]
    bound = bound + 2 * ROUNDING * (plain.abs() + 2 * added.abs())

    actual = step(*rows, residual, source_row, share)

    assert actual.is_contiguous()
    assert ((actual.double() - plain - added).abs() <= bound).all()


def test_a_share_of_nothing_leaves_rows_to_the_bit(step):
    shape = (3, 4, 5, 7)
    rows = make_rows(shape)
    residual, source_row, share = held(shape)
    assert torch.equal(step(*rows, residual, source_row, 0 * share), step(*rows))


def test_operator_is_registered_soundly():
    shape = (3, 4, 5, 7)
    arguments = (*make_rows(shape, torch.bfloat16), *held(shape))
    torch.library.opcheck(torch.ops.icd.boundary_step.default, arguments)


def test_they_are_given_together():
    shape = (3, 4, 5, 7)
    rows = make_rows(shape)
    for missing in range(3):
        own = held(shape)
        own[missing] = None
        with pytest.raises(ValueError, match="residual, source_row and share"):
            boundary_step(*rows, *own)


@pytest.mark.parametrize(
    ("name", "place", "spoil"),
    [
        ("residual", 0, lambda x: x[:, :, :-1]),
        ("residual", 0, lambda x: x[0]),
        ("source_row", 1, lambda x: x[:1]),
        ("share", 2, lambda x: x[:1]),
    ],
    ids=["size", "axes", "rows", "sources"],
)
def test_wrong_shapes_are_refused_by_name(name, place, spoil):
    shape = (3, 4, 5, 7)
    own = held(shape)
    own[place] = spoil(own[place])
    with pytest.raises(ValueError, match=rf"^{name} "):
        boundary_step(*make_rows(shape), *own)
