"""Tiles cover a picture and fade, networks that wait on the host come and go."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from icd_engine.engine import Engine
from icd_engine.runners.memory import Residence, in_tiles, tile_starts
from tests.icd_engine.plain_loops import SOURCE, TARGET, picture

# --- tiles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "tile", "expected"),
    [(8, 8, [0]), (5, 8, [0]), (9, 8, [0, 1]), (20, 8, [0, 6, 12]), (24, 8, [0, 5, 11, 16])],
)
def test_tiles_cover_a_side_and_overlap(side, tile, expected):
    assert tile_starts(side, tile) == expected
    assert all(later - first <= tile - tile // 4 for first, later in pairwise(expected))


@pytest.mark.parametrize(
    ("scale", "height", "width"), [((2, 1), 20, 9), ((1, 2), 40, 18), ((1, 1), 8, 30)]
)
def test_tiles_of_a_local_function_are_the_whole(scale, height, width):
    """What each output pixel takes from its own input alone is not changed by tiles, whatever their
    weights."""
    up, down = scale

    def local(x: Tensor) -> Tensor:
        small = x[..., ::down, ::down]
        return (3 * small + 1).repeat_interleave(up, -1).repeat_interleave(up, -2)

    x = torch.rand(2, 3, height, width)
    torch.testing.assert_close(in_tiles(local, x, 8, scale), local(x), rtol=1e-6, atol=1e-6)


def test_tiles_have_one_shape_and_are_small():
    seen = set()
    in_tiles(lambda x: seen.add(x.shape) or x, torch.zeros(1, 4, 37, 50), 16, (1, 1))
    assert seen == {(1, 4, 16, 16)}


def test_tiles_fade_without_a_seam():
    """Tiles of another level each: the step between neighbours is spread over the overlap."""
    levels = iter(range(100))
    whole = in_tiles(lambda x: x + next(levels), torch.zeros(1, 1, 16, 100), 16, (1, 1))[0, 0, 0]
    assert float(whole.diff().abs().max()) <= 1 / 3


# --- networks that wait on the host ---------------------------------------------------------------


class Moved(nn.Module):
    """Notes where it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def to(self, device):
        self.places.append(str(device))
        return self


def test_networks_come_and_go():
    text, vae = Moved(), Moved()
    residence = Residence(torch.device("cuda:0"), text, vae)
    assert text.places == vae.places == ["cpu"]
    with residence.of(vae):
        assert vae.places == ["cpu", "cuda:0"]
        with residence.of(vae):  # another thread's use
            pass
        assert vae.places == ["cpu", "cuda:0"]
    assert vae.places == ["cpu", "cuda:0", "cpu"] and text.places == ["cpu"]
    with pytest.raises(ZeroDivisionError), residence.of(text):
        raise ZeroDivisionError
    assert text.places == ["cpu", "cuda:0", "cpu"]


def test_offloading_changes_nothing_on_the_cpu(small_bundle, small_engine):
    offloaded = Engine.from_pretrained(small_bundle, device="cpu", offload=True)
    assert offloaded.runner.name == "eager"
    expected = small_engine.edit(picture(), SOURCE, TARGET).latents
    assert torch.equal(offloaded.edit(picture(), SOURCE, TARGET).latents, expected)
