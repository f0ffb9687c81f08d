"""The loop: order of the hops, and what a callback may do."""

import pytest

from icd_engine.sampling.schedule import NoiseSchedule
from icd_engine.sampling.trajectory import run_trajectory

HOPS = NoiseSchedule.scaled_linear().decode_hops()


def test_hops_run_in_order():
    assert run_trajectory([], HOPS, lambda k, hop, seen: [*seen, (k, hop.t)])[-1] == [
        (0, 999),
        (1, 779),
        (2, 519),
        (3, 259),
    ]


def test_callback_sees_the_boundary_and_may_replace():
    seen = []

    def callback(k, s, latents):
        seen.append((k, s, latents))
        return 100 if k == 1 else None

    assert run_trajectory(0, HOPS, lambda k, hop, x: x + 1, callback) == [1, 100, 101, 102]
    assert seen == [(0, 779, 1), (1, 519, 2), (2, 259, 101), (3, 0, 102)]


def test_no_hops_pass_nothing():
    assert run_trajectory("x", (), lambda *_: pytest.fail("called")) == []


def test_exception_in_callback_passes_through():
    def callback(k, s, latents):
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        run_trajectory(0, HOPS, lambda k, hop, x: x, callback)
