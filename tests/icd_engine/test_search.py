"""Automatic settings: what is tried, what is left alone, and that the score means what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from icd_engine.automatic import ranked
from icd_engine.errors import PromptError, SettingsError
from icd_engine.sampling.guidance import guidance_embedding
from icd_engine.search import SEARCHED, search
from icd_engine.settings import EditSettings

SOURCE, TARGET = "a cat sits on the mat", "a dog sits on the mat"


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def inversion(small_engine):
    return small_engine.invert(picture(), SOURCE, seed=1)


def hops(settings: EditSettings) -> tuple[int, int]:
    return int(settings.cross_replace * 5), int(settings.self_replace * 4)


def test_every_number_of_hops_is_tried_and_then_guidance(inversion):
    found = inversion.search(TARGET)
    tried = [candidate.settings for candidate in found.candidates]
    assert {hops(settings) for settings in tried} == {(i, j) for i in range(5) for j in range(5)}
    assert len({tuple(getattr(s, name) for name in SEARCHED) for s in tried}) == len(tried) == 34
    assert len({s.tau for s in tried}) == 4 and len({s.guidance_scale for s in tried}) == 3
    best = found.candidates[0]
    assert torch.equal(found.result.latents, best.latents) and ranked(found.candidates)[0] is best
    assert all(
        getattr(found.result.settings, name) == getattr(best.settings, name) for name in SEARCHED
    )


def test_what_is_given_stays(inversion):
    fixed = {"guidance_scale": 3.0, "tau": 0.6, "self_replace": 0.5, "control": "refine"}
    tried = [one.settings for one in inversion.search(TARGET, **fixed).candidates]
    assert all(
        getattr(settings, name) == value for settings in tried for name, value in fixed.items()
    )
    assert {hops(settings)[0] for settings in tried} == set(range(5))


@pytest.mark.parametrize("edits", [1, np.int64(7)])
def test_no_more_edits_than_asked_for(inversion, edits):
    told = []
    found = inversion.search(TARGET, edits=edits, progress=told.append)
    assert len(found.candidates) == edits == len(told)
    default = inversion.engine.default_settings
    # It comes first
    assert any(one.settings.cross_replace == default.cross_replace for one in found.candidates)


def test_no_edit_is_begun_after_the_time_is_over(inversion):
    assert len(inversion.search(TARGET, seconds=0.0).candidates) == 1


def test_agreement_is_the_difference_of_noise_errors(small_engine, inversion):
    """Against the network itself: noised latents, one prediction for each prompt."""
    found = inversion.search(TARGET, edits=1).candidates[0]
    runner, schedule, t = small_engine.runner, small_engine.model.schedule, 779
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    noised = schedule.a(t) * found.latents + schedule.sigma(t) * noise
    errors = []
    for text in (SOURCE, TARGET):
        features = runner.encode_prompts([small_engine.model.tokenizer.encode(text).ids]).features
        unguided = torch.from_numpy(
            guidance_embedding([0.0], runner.decode_network.guidance_channels)
        )
        with torch.no_grad():
            eps = runner.decode_network(noised, torch.full((1,), float(t)), features, unguided).eps
        errors.append(float((eps - noise).square().mean()))
    assert found.agreement == pytest.approx(errors[0] - errors[1], abs=1e-5)
    assert found.change == pytest.approx(
        float((found.latents - inversion.edit(TARGET).source_latents).abs().mean())
    )


def test_bad_input(inversion):
    with pytest.raises(SettingsError, match="one target"):
        inversion.search([TARGET])
    with pytest.raises(SettingsError, match="edits"):
        search(inversion, TARGET, edits=0)
    with pytest.raises(PromptError):
        inversion.search(" ")
    with pytest.raises(SettingsError, match="colour"):
        inversion.search(TARGET, colour=1)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"edits": "x"}, "edits must be a whole number from 1, not 'x'"),
        ({"edits": 1.5}, "edits must be a whole number from 1, not 1.5"),
        ({"edits": True}, "edits must be a whole number from 1, not True"),
        ({"seconds": "x"}, "seconds must be a number, not 'x'"),
        ({"seconds": True}, "seconds must be a number, not True"),
        ({"seed": 77}, "seed is 1 in this inversion and cannot become 77"),
    ],
    ids=str,
)
def test_options_that_cannot_be(inversion, options, named):
    with pytest.raises(SettingsError, match=named):
        inversion.search(TARGET, **options)


def test_settings_of_a_candidate_repeat_it(inversion):
    found = inversion.search(TARGET, edits=np.int8(3), seconds=np.float32(100), mask=np.tri(64))
    for one in found.candidates:
        again = inversion.edit(TARGET, settings=one.settings)
        assert torch.equal(again.latents, one.latents)


def test_the_contact_sheet_shows_the_best_first(inversion):
    found = inversion.search(TARGET, edits=8)
    sheet = found.contact_sheet(most=7)
    assert sheet.size == (6 * 128, 2 * 128)
    first = np.asarray(found.result.image.copy())
    assert np.array_equal(np.asarray(sheet)[:64, :64], first)
