"""Tiles cover a picture, their weights sum to one exactly, and the VAE in tiles is close to the VAE at once."""

from itertools import pairwise

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from icd_engine.bundles.bundle import read_bundle
from icd_engine.loading import load_network
from icd_engine.networks.tiling import AUTO_ABOVE, TILE, blend_tiles, cuts, tile_starts
from icd_engine.networks.vae import VAE

SIDES = [(64, 64), (65, 64), (79, 130), (112, 113), (40, 200), (64, 512), (128, 96), (1, 65)]


@pytest.mark.parametrize("size", SIDES, ids=str)
@pytest.mark.parametrize("scale", [1, 8])
def test_weights_sum_to_one_exactly_and_tiles_have_one_shape(size, scale):
    """A tile of ones gives ones: no position is left out, none is counted twice."""
    shapes = set()

    def ones(rows, columns):
        assert 0 <= rows.start and rows.stop <= size[0] and 0 <= columns.start and columns.stop <= size[1]
        shapes.add((rows.stop - rows.start, columns.stop - columns.start))
        return torch.ones(1, 2, scale * (rows.stop - rows.start), scale * (columns.stop - columns.start))

    whole = blend_tiles(ones, *size, scale=scale)
    assert torch.equal(whole, torch.ones(1, 2, scale * size[0], scale * size[1]))
    assert shapes == {(min(TILE, size[0]), min(TILE, size[1]))}


@pytest.mark.parametrize("size", SIDES, ids=str)
def test_what_does_not_depend_on_its_tile_comes_back(size):
    """Values in, values out: tiles lie where they were cut. Sums of two products: off by a rounding or two."""
    values = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    blended = blend_tiles(lambda rows, columns: values[:, :, rows, columns], *size)
    torch.testing.assert_close(blended, values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("length", range(16, 80))
def test_neighbours_share_a_quarter_and_reach_the_end(length):
    starts = tile_starts(length, 16, 4)
    assert starts[0] == 0 and starts[-1] + 16 == length
    assert all(0 < second - first <= 12 for first, second in pairwise(starts))


@pytest.fixture(scope="module")
def vae() -> VAE:
    """The embedded model's: weights that know pictures, one norm group, attention in the middle."""
    return load_network(read_bundle("tiny"), "vae", VAE, torch.device("cpu"), torch.float32)


def pictures(side: int) -> torch.Tensor:
    """[1, 3, side, side] in [-1, 1]: smooth ramps and a disc, in which a seam would show."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    disc = (x**2 + y**2 < 0.3).float()
    return torch.stack([0.6 * x, 0.6 * y, 0.8 * disc - 0.2])[None]


def in_tiles(vae: VAE, x: torch.Tensor, tile: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(moments, pictures decoded from the whole picture's latents), both by tiles of `tile` latents."""
    step = vae.downscale

    def encode(rows, columns):
        return vae.moments(x[:, :, step * rows.start : step * rows.stop, step * columns.start : step * columns.stop])

    latents = vae.to_latents(x)
    height, width = latents.shape[2:]
    moments = blend_tiles(encode, height, width, tile=tile)
    decoded = blend_tiles(lambda r, c: vae.to_image(latents[:, :, r, c]), height, width, tile=tile, scale=step)
    return moments, decoded


@torch.no_grad()
@pytest.mark.parametrize("tile", [16, 32])
def test_tiles_are_close_to_the_whole_and_show_no_seam(vae, tile):
    """The bound on the difference is loose, for statistics are each tile's own: a tenth of the picture's range.

    A seam is a step that the whole picture does not have there. Weights are linear over v = 2 * tile pixels, so where
    tiles differ by at most d, blending adds at most d / v from pixel to pixel, beside what differs within the tiles;
    against a step of d, where tiles are put side by side.
    """
    x = pictures(48 * vae.downscale)
    _, decoded = in_tiles(vae, x, tile)
    whole = vae.to_image(vae.to_latents(x))
    off = decoded - whole
    assert off.abs().mean() <= 0.05 and off.abs().quantile(0.99) <= 0.2
    steps = off.diff(dim=3).abs().mean(dim=(0, 1, 2))  # by column, over all rows
    assert steps.max() <= 4 * steps.mean() + 1 / 255


@torch.no_grad()
def test_moments_of_tiles_are_close_to_the_whole(vae):
    x = pictures(48 * vae.downscale)
    moments, _ = in_tiles(vae, x, 32)
    whole = vae.moments(x)
    assert (vae.latents(moments) - vae.latents(whole)).abs().mean() <= 0.1 * vae.latents(whole).std()


@torch.no_grad()
def test_a_constant_picture_stays_constant(vae):
    """All tiles inside see the same, so what they are blended to is the same: no lattice appears."""
    x = torch.full((1, 3, 384, 384), 0.25)
    _, decoded = in_tiles(vae, x, 16)
    whole = vae.to_image(vae.to_latents(x))
    assert (decoded - whole).abs().max() <= 0.1


class Largest(TorchDispatchMode):
    """The most elements of a tensor of more than three channels: pictures themselves, which must grow, are left out."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        out = function(*arguments, **(options or {}))
        if isinstance(out, torch.Tensor) and out.ndim == 4 and out.shape[1] > 3:
            self.elements = max(self.elements, out.numel())
        return out


@torch.no_grad()
def test_memory_does_not_grow_with_the_picture(vae):
    largest = []
    for side in (32, 64):
        latents = torch.zeros(1, 4, side, side)
        with Largest() as seen:
            blend_tiles(lambda r, c, x=latents: vae.to_image(x[:, :, r, c]), side, side, tile=16, scale=vae.downscale)
        largest.append(seen.elements)
    with Largest() as seen:
        vae.to_image(torch.zeros(1, 4, 64, 64))
    assert largest[0] == largest[1] and seen.elements >= 15 * largest[1]


def test_auto_cuts_above_every_models_own_size():
    side = int(AUTO_ABOVE**0.5) // 8
    assert not cuts("auto", side, side, 8) and not cuts("auto", 2 * side, side // 2, 8)
    assert cuts("auto", side, side + 1, 8)
    assert cuts(True, TILE, TILE + 1, 8) and not cuts(True, TILE, TILE, 8) and not cuts(False, 512, 512, 8)
