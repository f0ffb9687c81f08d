"""What a distillation may choose: scales, chains."""

import numpy as np
import pytest
import torch

from training.choices import Chain, Guidance


def test_listed_scales_are_drawn_alike():
    w = Guidance((0.0, 7.0, 19.0)).draw(np.random.default_rng(0), 3000)
    assert w.dtype == torch.float32
    for scale in (0.0, 7.0, 19.0):
        assert 900 < int((w == scale).sum()) < 1100


def test_even_scales_reach_the_largest_and_some_are_unguided():
    w = Guidance((0.0, 8.0), even=True, unguided=0.3).draw(np.random.default_rng(0), 3000)
    assert 800 < int((w == 0).sum()) < 1000
    guided = w[w > 0]
    assert guided.max() < 8 and guided.max() > 7.9 and abs(float(guided.mean()) - 4) < 0.2


@pytest.mark.parametrize(
    "encode_times, decode_times, message",
    [
        ((19, 260), (260, 999), "grid"),
        ((259, 19), (259, 999), "ascend"),
        ((), (999,), "ascend"),
        ((19, 259), (0, 259), "grid"),
        ((19, 999), (519, 999), "end at 999"),
    ],
)
def test_chains_that_are_none(encode_times, decode_times, message):
    with pytest.raises(ValueError, match=message):
        Chain(encode_times, decode_times)
