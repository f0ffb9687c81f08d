"""What methods that invert must do exactly, on small random weights and few steps."""

import pytest

from benchmarks.evaluation import inverting
from benchmarks.evaluation.methods import METHODS
from benchmarks.evaluation.tasks import EditTask
from tests.benchmarks.evaluation.edits import SOURCE, error, task

pytestmark = pytest.mark.usefixtures("few_steps")


@pytest.mark.parametrize("name", ["ddim", "ddim+p2p", "npi", "renoise", "masactrl"])
def test_the_source_prompt_unguided_leads_to_the_reconstruction(model, name):
    outcome = METHODS[name](model, task(SOURCE, 0.0))
    assert error(outcome.edited, outcome.reconstruction) <= 1e-5


def test_negative_prompt_inversion_does_not_guide_the_source_away(model):
    """With the source prompt on both sides guidance cancels, whatever w is."""
    one, other = (inverting.negative_prompt_inversion(model, task(SOURCE, w)) for w in (0.0, 7.0))
    assert error(one.edited, other.edited) <= 1e-4


def test_optimised_null_text_reconstructs_better_than_the_empty_prompt(model):
    plain = EditTask(task().latents, SOURCE, SOURCE, 4.0)
    empty = model.features("", "")
    start = inverting.ddim_inversion(model, plain)[-1]
    guided = inverting.decode(model, plain, start, lambda k: empty, None, 4.0)
    optimised = inverting.null_text_inversion(model, plain)
    assert error(optimised.edited, plain.latents) < error(guided.edited, plain.latents)
