"""Plans of group_norm_silu's launches cover the maps and fill the chip."""

import pytest

from csrc_triton.group_norm_silu.plan import ALONE, MOST_CHUNKS, SMS, plan

# Rows, channels, groups, side and bytes: Stable Diffusion's UNet, SDXL's, their autoencoders, the
# embedded model.
MAPS = [
    *[
        (rows, c, 32, side, 2)
        for rows in (1, 2, 16)
        for side, c in ((64, 320), (64, 960), (32, 640), (32, 1920))
    ],
    *[
        (rows, c, 32, side, 2)
        for rows in (1, 2, 16)
        for side, c in ((16, 1280), (16, 2560), (8, 1280), (8, 2560))
    ],
    *[(1, c, 32, side, 2) for side, c in ((128, 320), (128, 960), (64, 640), (64, 1920))],
    *[
        (1, c, 32, side, size)
        for size in (2, 4)
        for side, c in ((64, 512), (256, 256), (512, 128), (1024, 128))
    ],
    *[(1, c, groups, side, 4) for groups in (1, 16) for side, c in ((8, 256), (16, 128), (64, 64))],
]


@pytest.mark.parametrize("joined", [False, True], ids=["alone", "skip"])
@pytest.mark.parametrize("sizes", MAPS, ids=lambda sizes: "{}x{}/{}-{}-{}".format(*sizes))
def test_plans_cover_maps_and_fill_the_chip(sizes, joined):
    rows, channels, groups, side, itemsize = sizes
    depth, pixels = channels // groups, side * side
    p = plan(rows, channels, groups, pixels, itemsize, joined)
    assert p.width % depth == 0 and p.width <= p.block
    assert {p.block & (p.block - 1), p.tile & (p.tile - 1), p.warps & (p.warps - 1)} == {0}
    blocks = -(-channels // p.width)
    if not p.chunk:
        assert p.tile * p.share >= pixels
        assert p.share == 1 or p.width * pixels * itemsize <= ALONE
        return
    chunks, shares = (-(-pixels // (tiles * p.tile)) for tiles in (p.chunk, p.share))
    assert chunks <= MOST_CHUNKS
    assert p.tile * p.block * itemsize <= 16384
    assert blocks * p.block <= 1.6 * channels  # lanes that idle
    if rows * channels * pixels >= 2**19:  # 16 KiB tiles of half of that would not go round
        assert rows * blocks * min(chunks, shares) >= SMS
