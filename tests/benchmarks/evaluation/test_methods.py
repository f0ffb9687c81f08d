"""What each method must do exactly, on small random weights and few steps."""

import pytest
import torch

from benchmarks.evaluation import methods
from benchmarks.evaluation.diffusion import Diffusion, down, levels
from benchmarks.evaluation.methods import METHODS, EditTask
from icd_engine.engine import Engine
from icd_engine.errors import BundleError

SOURCE, TARGET = "a cat sits on the mat", "a dog sits on the mat"


@pytest.fixture(scope="module")
def loaded(two_pass_bundle) -> Engine:
    return Engine.from_pretrained(two_pass_bundle, device="cpu")


@pytest.fixture
def model(loaded) -> Diffusion:
    return Diffusion(loaded, loaded.runner.decode_network)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(methods, "levels", lambda steps=50: levels(min(steps, 6)))


def task(target: str = TARGET, w: float = 4.0) -> EditTask:
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return EditTask(latents, SOURCE, target, w, seed=3)


def error(got, expected) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


def test_levels_are_the_grid_of_ddim():
    assert levels()[:3] == [0, 19, 39] and levels()[-1] == 999 and len(levels()) == 51
    assert levels(4)[-1] == 999 and len(levels(4)) == 5 and set(levels(4)) <= set(levels())
    assert list(down([0, 19, 999])) == [(999, 19), (19, 0)]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_edits(model, name):
    outcome = METHODS[name](model, task())
    assert outcome.edited.shape == outcome.reconstruction.shape == (1, 4, 8, 8)
    assert outcome.edited.isfinite().all() and model.calls > 0
    assert error(outcome.edited, outcome.reconstruction) > 1e-3
    again = METHODS[name](model, task())
    assert torch.equal(outcome.edited, again.edited)


@pytest.mark.parametrize("name", ["ddim", "ddim+p2p", "npi", "renoise"])
def test_the_source_prompt_unguided_leads_to_the_reconstruction(model, name):
    outcome = METHODS[name](model, task(SOURCE, 0.0))
    assert error(outcome.edited, outcome.reconstruction) <= 1e-5


def test_negative_prompt_inversion_does_not_guide_the_source_away(model):
    """With the source prompt on both sides guidance cancels, whatever w is."""
    one, other = (methods.negative_prompt_inversion(model, task(SOURCE, w)) for w in (0.0, 7.0))
    assert error(one.edited, other.edited) <= 1e-4


def test_edit_friendly_noise_maps_lead_back_exactly(model):
    outcome = methods.edit_friendly_ddpm(model, task(SOURCE, methods.FRIENDLY_SOURCE_W))
    assert error(outcome.edited, outcome.reconstruction) <= 1e-4


def test_virtual_inversion_leads_back_exactly(model):
    outcome = methods.infedit(model, task(SOURCE, 0.0))
    assert error(outcome.edited, task().latents) <= 1e-4


def test_optimised_null_text_reconstructs_better_than_the_empty_prompt(model):
    plain = methods.EditTask(task().latents, SOURCE, SOURCE, 4.0)
    empty = model.features("", "")
    start = methods.ddim_inversion(model, plain)[-1]
    guided = methods._decode(model, plain, start, lambda k: empty, None, 4.0)
    optimised = methods.null_text_inversion(model, plain)
    assert error(optimised.edited, plain.latents) < error(guided.edited, plain.latents)


def test_a_distilled_network_is_no_teacher(small_engine, tmp_path):
    part = small_engine.bundle.path / "unet"
    with pytest.raises(BundleError, match="no teacher"):
        Diffusion.load(small_engine, part)
