"""Steps of training and the boundaries they lead to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from icd_engine.sampling.schedule import NoiseSchedule
from training import losses

SCHEDULE = NoiseSchedule.scaled_linear()
DECODE, ENCODE_ENDS = (259, 519, 779, 999), (259, 519, 779, 999)


@pytest.mark.parametrize(
    "t_next, s",
    [
        (0, 0),
        (19, 0),
        (258, 0),
        (259, 259),
        (260, 259),
        (518, 259),
        (519, 519),
        (779, 779),
        (979, 779),
    ],
)
def test_decode_boundary_is_the_largest_not_above(t_next, s):
    assert losses.decode_boundary(torch.tensor([t_next]), DECODE).tolist() == [s]


@pytest.mark.parametrize(
    "t_next, s",
    [
        (39, 259),
        (258, 259),
        (259, 259),
        (260, 519),
        (279, 519),
        (519, 519),
        (779, 779),
        (780, 999),
        (999, 999),
    ],
)
def test_encode_boundary_is_the_smallest_not_below(t_next, s):
    assert losses.encode_boundary(torch.tensor([t_next]), ENCODE_ENDS).tolist() == [s]


def test_reverse_steps_cover_the_grid_downwards():
    t, t_next = losses.reverse_steps(np.random.default_rng(0), 2000)
    assert set(t.tolist()) == set(range(19, 1000, 20))
    assert set(t_next.tolist()) == {0, *range(19, 980, 20)}
    assert torch.equal(t_next, torch.where(t == 19, 0, t - 20))
    assert t.dtype == torch.int64


@pytest.mark.parametrize("start", [19, 259])
def test_forward_steps_cover_the_grid_upwards(start):
    t, t_next = losses.forward_steps(np.random.default_rng(0), 2000, start)
    assert set(t.tolist()) == set(range(start, 980, 20))
    assert torch.equal(t_next, t + 20)


def test_steps_stay_within_a_chain_that_ends_before_999():
    t, t_next = losses.forward_steps(np.random.default_rng(0), 2000, 259, 799)
    assert t.min() == 259 and t_next.max() == 799
    assert losses.reverse_steps(np.random.default_rng(0), 2000, 799)[0].max() == 799


def test_every_segment_ends_at_a_boundary_of_the_engine():
    rng = np.random.default_rng(0)
    down = losses.decode_boundary(losses.reverse_steps(rng, 2000)[1], DECODE)
    up = losses.encode_boundary(losses.forward_steps(rng, 2000)[1], ENCODE_ENDS)
    assert set(down.tolist()) == {hop.s for hop in SCHEDULE.decode_hops()}
    assert set(up.tolist()) == {hop.s for hop in SCHEDULE.encode_hops()}
