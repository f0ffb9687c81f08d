"""What methods that noise the picture must do exactly, on small random weights and few steps."""

import pytest

from benchmarks.evaluation import noising
from tests.benchmarks.evaluation.edits import SOURCE, error, task

pytestmark = pytest.mark.usefixtures("few_steps")


def test_edit_friendly_noise_maps_lead_back_exactly(model):
    outcome = noising.edit_friendly_ddpm(model, task(SOURCE, noising.FRIENDLY_SOURCE_W))
    assert error(outcome.edited, outcome.reconstruction) <= 1e-4


def test_virtual_inversion_leads_back_exactly(model):
    outcome = noising.infedit(model, task(SOURCE, 0.0))
    assert error(outcome.edited, task().latents) <= 1e-4
