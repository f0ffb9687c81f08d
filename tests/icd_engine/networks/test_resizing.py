"""Doubling by phases is doubling, then convolving: with filters of each pass, kept ones, and where
weights have changed."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icd_engine.networks import resizing
from icd_engine.networks.difference import share_weights
from icd_engine.networks.resizing import Upsample, keep_filters
from icd_engine.networks.unet import UNet
from icd_engine.networks.vae import VAE
from tests import conftest


def made(dtype: torch.dtype = torch.float64) -> Upsample:
    torch.manual_seed(0)
    return Upsample(6).to(dtype).requires_grad_(False)


def definition(module: Upsample, x: Tensor) -> Tensor:
    return module.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (8, 16)], ids=str)
@pytest.mark.parametrize("kept", [False, True], ids=["each-pass", "kept"])
def test_phases_equal_doubling_and_convolving(size, kept):
    """In float64: the sums of weights are the same numbers in another order."""
    module = made()
    if kept:
        keep_filters(module)
        assert module.phase_weight is not None
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    expected = definition(module, x)
    torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-6)  # sums are taken in float32
    assert list(module.state_dict()) == ["conv.weight", "conv.bias"]


def test_phases_as_they_are_laid_on_cuda(monkeypatch):
    module = made()
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    expected = module(x)
    monkeypatch.setattr(resizing, "fused", lambda x: True)
    ours = module(x)
    assert torch.equal(ours, expected)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_filters_made_once_are_those_of_every_pass():
    torch.manual_seed(0)
    plain = VAE(conftest.VAE).eval().requires_grad_(False)
    kept = copy.deepcopy(plain)
    keep_filters(kept)
    latents = torch.randn(1, 4, 8, 6)
    assert torch.equal(kept.to_image(latents), plain.to_image(latents))


def test_filters_made_again_lie_where_they_lay_and_are_of_the_new_weights():
    """CUDA graphs read them there."""
    module = made(torch.float32)
    keep_filters(module)
    place = module.phase_weight.data_ptr()
    x = torch.randn(1, 6, 4, 4)
    before = module(x)
    module.conv.weight.neg_()
    module.conv.bias.neg_()
    keep_filters(module)
    assert module.phase_weight.data_ptr() == place
    assert torch.equal(module(x), -before)


def test_filters_follow_weights_that_are_loaded():
    module, other = made(torch.float32), made(torch.float32)
    keep_filters(module)
    other.conv.weight.neg_()
    module.load_state_dict(other.state_dict())
    x = torch.randn(1, 6, 4, 4)
    assert torch.equal(module(x), other(x))


def test_an_update_of_a_layer_counts():
    """Weights "switch", and styles of one network: the kept filters are not of those weights."""
    torch.manual_seed(0)
    base = UNet(conftest.UNET).eval().requires_grad_(False)
    keep_filters(base)
    name = "up_blocks.0.upsamplers.0.conv"
    width = base.get_submodule(name).out_channels
    updates = {
        f"{name}.up": torch.randn(width, 2, 1, 1),
        f"{name}.down": torch.randn(2, width, 3, 3),
    }
    shared = UNet(conftest.UNET).eval()
    keep_filters(shared)
    share_weights(shared, base, updates)
    keep_filters(shared)
    module = shared.get_submodule(name.removesuffix(".conv"))
    x = torch.randn(1, width, 4, 4)
    expected = definition(module, x)
    difference = (module(x) - expected).abs().max()
    assert difference <= 1e-5 * expected.abs().max()
    own = definition(base.get_submodule(name.removesuffix(".conv")), x)
    assert (expected - own).abs().max() > 0.1 * own.abs().max()


def test_weights_learn_by_phases():
    module = nn.Sequential(made().requires_grad_(True))
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    module(x).square().sum().backward()
    ours = module[0].conv.weight.grad.clone()
    module.zero_grad()
    definition(module[0], x).square().sum().backward()
    torch.testing.assert_close(ours, module[0].conv.weight.grad, rtol=1e-5, atol=1e-5)
