"""Products of eight bits, imitated: what is rounded and what is not, and what it does to edits."""

import torch
import torch.nn.functional as F

from benchmarks import eight_bit
from benchmarks.eight_bit import EightBit, in_eight_bits


def test_rounding_is_to_three_bits_beside_the_first():
    x = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    rounded = in_eight_bits(x, -1)
    torch.testing.assert_close(rounded.abs().amax(-1), x.abs().amax(-1), rtol=1e-6, atol=0)
    # Half a unit in the last of 1 + 3 bits, or of the smallest normal number, 2^-6 / 448 of the
    # largest, whose subnormals are 2^-3 of it apart; and what scaling rounds.
    bound = torch.maximum(x.abs() * 2.0**-4, x.abs().amax(-1, keepdim=True) * 2.0**-10 / 448)
    assert ((rounded - x).abs() <= bound * (1 + 1e-5)).all()
    assert ((rounded - x).abs().mean() / x.abs().mean()) > 0.01
    assert torch.equal(in_eight_bits(torch.zeros(2, 3), -1), torch.zeros(2, 3))


def test_products_are_rounded_and_convolutions_where_asked_for():
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(5, 8, generator=generator) for _ in range(2))
    maps, kernel = (torch.randn(2, 4, side, side, generator=generator) for side in (5, 3))
    small = kernel[..., :1, :1]
    with EightBit(convolutions=False):
        product, added = F.linear(x, weight), torch.addmm(x[:, :5], x, weight.mT)
        conv, pointwise = F.conv2d(maps, kernel), F.conv2d(maps, small)
    with EightBit(convolutions=True):
        rounded = torch.nn.functional.conv2d(maps, kernel)
    expected = in_eight_bits(x, -1) @ in_eight_bits(weight, -1).mT
    torch.testing.assert_close(product, expected)
    torch.testing.assert_close(added, x[:, :5] + expected)
    torch.testing.assert_close(conv, F.conv2d(maps, kernel), rtol=0, atol=0)
    other = in_eight_bits(small, (1, 2, 3))
    torch.testing.assert_close(pointwise, F.conv2d(in_eight_bits(maps, 1), other))
    other = in_eight_bits(kernel, (1, 2, 3))
    torch.testing.assert_close(rounded, F.conv2d(in_eight_bits(maps, (1, 2, 3)), other))


def test_less_precision_is_farther_from_float32():
    half, products, everything = eight_bit.measure_eight_bits(device="cpu", repeats=1)
    assert [row["dtype"] for row in (half, products, everything)] == list(eight_bit.WAYS)
    assert 0 < half["inversion_error"] < products["inversion_error"]
    assert products["inversion_error"] < everything["inversion_error"] < 1
    assert half["round_trip_db"] > everything["round_trip_db"]
