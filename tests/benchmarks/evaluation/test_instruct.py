"""InstructPix2Pix: its guidance against the paper's equation, and which networks it takes."""

from dataclasses import replace

import pytest
import torch

from benchmarks.evaluation.diffusion import Diffusion
from benchmarks.evaluation.instruct import ip2p
from benchmarks.evaluation.tasks import InstructScales
from tests.benchmarks.evaluation.edits import TARGET, error, task

pytestmark = pytest.mark.usefixtures("few_steps")


def scaled(text: float, picture: float, **changed):
    return replace(task(), scales=InstructScales(text, picture), **changed)


def single(model: Diffusion, text: str, seen: bool) -> torch.Tensor:
    """Six DDIM steps with one prediction each."""
    from benchmarks.evaluation.diffusion import down, levels

    given = task()
    picture = given.latents / 0.18215 if seen else torch.zeros_like(given.latents)
    x = model.noise(3000, given.latents)
    for t, s in down(levels(6)):
        x = model.step(x, model.eps(torch.cat([x, picture], 1), t, model.features(text)), t, s)
    return x


@pytest.mark.parametrize(
    ("scales", "text", "seen"),
    [((0.0, 0.0), "", False), ((0.0, 1.0), "", True), ((1.0, 1.0), TARGET, True)],
)
def test_scales_of_nought_and_one_pick_one_prediction(instructed, scales, text, seen):
    outcome = ip2p(instructed, scaled(*scales))
    assert error(outcome.edited, single(instructed, text, seen)) <= 1e-4
    assert instructed.calls == 3 * 6 + 6


def test_the_instruction_stands_before_the_target(instructed):
    told = ip2p(instructed, scaled(7.5, 1.5, target="anything", instruction=TARGET))
    assert torch.equal(told.edited, ip2p(instructed, scaled(7.5, 1.5)).edited)
