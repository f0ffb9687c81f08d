"""What every method must do, on small random weights and few steps."""

import pytest
import torch

from benchmarks.evaluation.methods import INSTRUCTED, METHODS
from tests.benchmarks.evaluation.edits import error, task

pytestmark = pytest.mark.usefixtures("few_steps")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_edits(model, instructed, name):
    network = instructed if name in INSTRUCTED else model
    outcome = METHODS[name](network, task())
    assert outcome.edited.shape == outcome.reconstruction.shape == (1, 4, 8, 8)
    assert outcome.edited.isfinite().all() and network.calls > 0
    assert error(outcome.edited, outcome.reconstruction) > 1e-3
    again = METHODS[name](network, task())
    assert torch.equal(outcome.edited, again.edited)
