"""Networks as they run on CUDA, with joined weights and fused sums: the same answers, the same keys,
and what is written into a layer is in the product."""

from __future__ import annotations

import copy
from importlib import import_module

import pytest
import torch
from torch import Tensor

from icd_engine.editing.plan import EditStep
from icd_engine.networks import attention, blocks, resizing, sums, vae
from icd_engine.networks.difference import share_weights
from icd_engine.networks.resizing import keep_filters
from icd_engine.networks.unet import UNet, UNetOutput
from tests.conftest import UNET, VAE

# The packages' names are those of their functions
conv3x3, self_attention = map(import_module, ("csrc_triton.conv3x3", "csrc_triton.self_attention"))
ROUNDING = 1e-5  # relative: products of other shapes add up in another order
TOKENS = 11


@pytest.fixture(scope="module")
def pair() -> tuple[UNet, UNet]:
    """The network plain, and joined."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = UNet(UNET, blend_downscale=1, share_downscale=1).eval().requires_grad_(False)
    joined = copy.deepcopy(plain)
    joined.join_weights()
    keep_filters(joined)
    return plain, joined


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def edit(network: UNet, source: list[Tensor] | None = None) -> UNetOutput:
    """A pass of two sources and three targets, of which two share; with `source` of the targets
    alone."""
    x, t = draw(5, 4, 8, 8), torch.tensor([999.0, 519.0, 19.0, 999.0, 519.0])
    step = EditStep(
        torch.tensor([1, 0, 1]),
        draw(3, TOKENS, TOKENS).softmax(dim=1),
        draw(3, TOKENS).sigmoid(),
        torch.tensor([True, False, True]),
        torch.eye(TOKENS)[1].expand(3, TOKENS),
        torch.eye(TOKENS)[2].expand(3, TOKENS),
    )
    prompt = network.prompt_values(draw(5, TOKENS, 16))
    first = 0 if source is None else 2
    shifts = network.time_shifts(t, draw(5, 64))
    return network.predict(x[first:], shifts[first:], prompt, step, source, source is None)


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= ROUNDING * theirs.abs().max()


def test_joined_networks_answer_alike(pair):
    plain, joined = pair
    theirs, ours = edit(plain), edit(joined)
    assert_close(ours.eps, theirs.eps)
    assert_close(ours.word_maps, theirs.word_maps)
    for own, their in zip(ours.kept, theirs.kept, strict=True):
        assert_close(own, their)
    assert_close(edit(joined, ours.kept).eps, theirs.eps[2:])
    assert_close(edit(joined, theirs.kept).eps, edit(plain, theirs.kept).eps)


@pytest.fixture
def on_cuda(monkeypatch) -> None:
    """Networks take the way they take there; operations are their references."""
    for module in (attention, blocks, resizing, sums, vae):
        monkeypatch.setattr(module, "fused", lambda x: True)


def test_fused_networks_answer_alike(pair, on_cuda, monkeypatch):
    ours = edit(pair[1])
    again = edit(pair[1], ours.kept)
    monkeypatch.undo()
    theirs = edit(pair[0])
    assert_close(ours.eps, theirs.eps)
    assert_close(ours.word_maps, theirs.word_maps)
    assert_close(again.eps, theirs.eps[2:])


@pytest.mark.parametrize("bare", [0, 1], ids=["highest", "lowest"])
def test_levels_without_attention_answer_alike(on_cuda, monkeypatch, bare):
    """Their sums go to norms beside skips, to changes of size and to the last norm."""
    down = ["CrossAttnDownBlock2D"] * 2
    up = ["CrossAttnUpBlock2D"] * 2
    down[bare], up[1 - bare] = "DownBlock2D", "UpBlock2D"
    config = UNET | {"down_block_types": down, "up_block_types": up, "layers_per_block": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = UNet(config).eval().requires_grad_(False)
    ours = edit(network).eps
    monkeypatch.undo()
    assert_close(ours, edit(network).eps)


def test_a_fused_vae_answers_alike(on_cuda, monkeypatch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = vae.VAE(VAE).eval().requires_grad_(False)
    made = copy.deepcopy(plain)
    keep_filters(made)
    pictures = draw(2, 3, 64, 48)
    moments = made.moments(pictures)
    image = made.to_image(moments[:, :4])
    monkeypatch.undo()
    assert_close(moments, plain.moments(pictures))
    assert_close(image, plain.to_image(moments[:, :4]))


def test_joined_weights_are_saved_and_loaded_as_they_were(pair):
    plain, joined = pair
    assert list(joined.state_dict()) == list(plain.state_dict())
    other = UNet(UNET, blend_downscale=1, share_downscale=1)
    other.join_weights()
    other.load_state_dict(plain.state_dict())
    assert_close(edit(other).eps, edit(plain).eps)


def test_what_is_written_into_a_layer_counts(pair):
    """As styles do."""
    changed = [copy.deepcopy(one) for one in pair]
    changed[1].join_weights()  # a copy's are not joined: each parameter is copied by itself
    for network in changed:
        block = network.transformer_blocks()[1]
        for layer in (block.attn1.to_k, block.attn2.to_v):
            layer.weight.copy_(layer.weight.flip(0))
    theirs, ours = (edit(one).eps for one in changed)
    assert_close(ours, theirs)
    assert not torch.allclose(theirs, edit(pair[0]).eps, rtol=0.01)


def test_layers_with_updates_count_by_themselves(pair):
    """Weights "switch" and styles of one network: an update on some layers of a product."""
    changed = []
    for network in pair:
        other = UNet(UNET, blend_downscale=1, share_downscale=1).eval()
        names = [
            f"down_blocks.0.attentions.0.transformer_blocks.0.{layer}"
            for layer in ("attn1.to_q", "attn2.to_k")
        ]
        updates = {f"{name}.up": draw(16, 2) for name in names}
        updates |= {f"{name}.down": draw(2, 16) for name in names}
        share_weights(other, network, updates)
        changed.append(edit(other).eps)
    assert_close(changed[1], changed[0])
    assert not torch.allclose(changed[0], edit(pair[0]).eps, rtol=0.01)


def test_measured_kernels_are_taken_where_the_table_has_them(pair, on_cuda, monkeypatch):
    """Every shape has an entry here, and each operation says that it ran; maps are halved by it, too."""
    ran = set()

    def as_measured(op, _, key):
        ran.add((op, key.split()[-1]) if op == "conv3x3" else op)
        return (64, 64, 4, 3)

    for module in (conv3x3, self_attention):
        monkeypatch.setattr(module, "fused", lambda x: True)
        monkeypatch.setattr(module, "measured_tiling", as_measured)
    ours = edit(pair[1])
    monkeypatch.undo()
    assert ran == {("conv3x3", "1"), ("conv3x3", "2"), "self_attention"}
    assert_close(ours.eps, edit(pair[0]).eps)
