"""Mutual self-attention: where it begins, what it computes, and that it goes again."""

import pytest
import torch

from benchmarks.evaluation import masactrl
from benchmarks.evaluation.inverting import ddim_inversion, decode
from benchmarks.evaluation.masactrl import first_layer, mutual
from icd_engine.networks.attention import attend
from tests.benchmarks.evaluation.edits import error, task

ROUNDING = 1e-5  # of float32 over a pass


def predicted(model, x, features):
    return model.eps(x, 500, features)


def rows():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))


def test_layers_are_the_published_ones():
    """Of SD1.5, of SDXL, and of the embedded teacher."""
    assert [first_layer(blocks) for blocks in (16, 70, 7)] == [10, 44, 4]


def test_the_target_attends_to_the_source(model):
    """The layer's answer against attention written out on the layer's own projections."""
    layer = model.unet.transformer_blocks()[-1].attn1
    x = torch.randn(2, 6, layer.to_q.in_features, generator=torch.Generator().manual_seed(1))
    q, k, v = (layer.split(part(x)) for part in (layer.to_q, layer.to_k, layer.to_v))
    expected = layer.out(torch.cat([attend(q[:1], k[:1], v[:1]), attend(q[1:], k[:1], v[:1])]))
    with mutual(model.unet, first_layer(7)):
        assert error(layer.to_self(x, None, True), expected) <= ROUNDING


def test_the_source_row_never_sees_the_target(model):
    """It is what it is without control; the target row is not, and without control again it is."""
    features = model.features("a cat sits on the mat", "a dog sits on the mat")
    plain = predicted(model, rows(), features)
    with mutual(model.unet, 4):
        controlled = predicted(model, rows(), features)
    assert error(controlled[0], plain[0]) <= ROUNDING and error(controlled[1], plain[1]) > 1e-3
    assert torch.equal(predicted(model, rows(), features), plain)


def test_it_goes_even_after_an_error(model):
    with pytest.raises(KeyError), mutual(model.unet, 0):
        raise KeyError
    blocks = model.unet.transformer_blocks()
    assert not any("to_self" in vars(block.attn1) for block in blocks)


@pytest.mark.usefixtures("few_steps")
def test_the_first_steps_are_without_it(model, monkeypatch):
    """Were none with it, it would be DDIM inversion with an unguided source row."""
    empty = model.features("", "")
    start = ddim_inversion(model, task())[-1]
    plain = decode(model, task(), start, lambda k: empty, None, 0.0)
    controlled = masactrl.masactrl(model, task())
    assert error(controlled.reconstruction, plain.reconstruction) <= 1e-4
    assert error(controlled.edited, plain.edited) > 1e-3
    monkeypatch.setattr(masactrl, "FIRST_STEP", 6)
    assert torch.equal(masactrl.masactrl(model, task()).edited, plain.edited)
