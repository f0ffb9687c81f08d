"""Automatic settings: which rows run, which candidate is taken, and when settings are automatic at
all."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from icd_engine.automatic import AGREES, CANDIDATES, VARIED, Tree, ranked
from icd_engine.errors import SettingsError
from icd_engine.results import Candidate, EditRequest
from icd_engine.settings import CHOICES, EditSettings
from tests.icd_engine.plain_loops import (
    OTHER,
    ROUNDING,
    SOURCE,
    TARGET,
    assert_close,
    picture,
    recorded,
)

MAGNIFIED = 16 * ROUNDING  # random weights: see test_engine


def candidate(agreement: float, change: float) -> Candidate:
    return Candidate(EditSettings(), agreement, change, None)


# --- the tree of rows -----------------------------------------------------------------------------


def test_rows_that_agree_so_far_run_once():
    tree = Tree.of(["aaa", "abc", "abd", "abd"])
    assert tree.first == [[0], [0, 1], [0, 1, 2]]
    assert tree.rows == [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2]]
    assert tree.parents == [[0], [0, 0], [0, 1, 1]]


def test_what_parted_stays_apart():
    """The same hop after another one is another row."""
    tree = Tree.of(["ax", "bx"])
    assert tree.rows == [[0, 1], [0, 1]] and tree.parents == [[0, 1], [0, 1]]


# --- which is taken -------------------------------------------------------------------------------


def test_the_least_change_that_agrees_is_taken():
    free = candidate(1.0, 0.9)
    held = candidate(AGREES, 0.3)
    nothing = candidate(AGREES - 0.01, 0.1)
    assert ranked([free, nothing, held]) == [held, free, nothing]


def test_where_none_agrees_the_best_agreement_is_taken():
    found = [candidate(-3.0, 0.1), candidate(-1.0, 0.9), candidate(-2.0, 0.2)]
    assert [one.agreement for one in ranked(found)] == [-1.0, -2.0, -3.0]


# --- edits ----------------------------------------------------------------------------------------


def test_an_automatic_edit_is_one_pass_and_one_call(small_engine):
    with recorded(small_engine) as seen:
        result = small_engine.edit(picture(), SOURCE, TARGET, settings="auto", seed=3)
    assert seen["encode"] == [1] * 4
    first, *others, scored = seen["decode"]
    rows = [first - 4, *others]
    assert len(rows) == 4 and all(few <= many for few, many in pairwise(rows))
    assert rows[-1] <= len(CANDIDATES) + 1 and sum(rows) < 4 * rows[-1]
    assert scored == 2 * len(result.candidates)
    assert result.network_calls == 9
    with recorded(small_engine) as seen:
        again = result.inversion.edit(TARGET, settings="auto")
    assert seen["decode"] == [*rows, scored] and again.network_calls == 5
    assert again.settings == result.settings


@pytest.mark.parametrize("anchor", [0.0, 1.0])
def test_every_candidate_is_the_edit_of_its_settings(small_engine, anchor):
    kept = small_engine.invert(picture(), SOURCE, seed=3)
    result = kept.edit(TARGET, settings="auto", anchor=anchor)
    assert result.candidates[0].settings == result.settings and not result.settings.auto
    # Blend words of a random network are seen everywhere, so that two of the candidates are alike.
    assert len({one.change for one in result.candidates}) >= len(result.candidates) - 1 > 3
    for one in result.candidates:
        given = {name: getattr(one.settings, name) for name in CHOICES}
        alone = kept.edit(TARGET, **given)
        assert_close(one.latents, alone.latents, MAGNIFIED)
        change = float((alone.latents - alone.source_latents).abs().mean())
        assert one.change == pytest.approx(change, rel=1e-4)
    best = kept.edit(TARGET, **{name: getattr(result.settings, name) for name in CHOICES})
    assert_close(result.latents, best.latents, MAGNIFIED)
    assert (result.hop_masks is None) == (best.masks is None)


def test_masks_are_those_of_the_candidate(small_engine):
    mask = np.zeros((64, 64))
    mask[:, 32:] = 1
    result = small_engine.edit(picture(), SOURCE, TARGET, settings="auto", mask=mask)
    assert result.hop_masks.shape[:2] == (4, 1)
    assert torch.equal(result.latents[..., :4], result.source_latents[..., :4])


@pytest.mark.parametrize("name", VARIED)
def test_what_is_given_stays(small_engine, name):
    values = {"cross_replace": 0.4, "self_replace": (0.0, 0.25), "blend": ("mat", "mat")}
    value = (values | {"guidance_scale": 3.0, "tau": 0.6})[name]
    kept = small_engine.invert(picture(), SOURCE)
    result = kept.edit(TARGET, settings="auto", amplify={"dog": 2.0}, **{name: value})
    expected = getattr(EditSettings(**{name: value}), name)
    for one in result.candidates:
        assert getattr(one.settings, name) == expected and one.settings.amplify == {"dog": 2.0}


def test_without_anything_to_choose_nothing_is_scored(small_engine):
    with recorded(small_engine) as seen:
        result = small_engine.edit(picture(), SOURCE, TARGET, settings="auto", control="none")
    assert seen["decode"] == [5, 1, 1, 1] and result.network_calls == 8
    assert result.candidates == []


def test_edits_of_many_pictures_choose_each_for_itself(small_engine):
    settings = [{"auto": True}, {}, {"auto": True}]
    requests = [EditRequest(picture(i), SOURCE, TARGET, own) for i, own in enumerate(settings)]
    together = small_engine.edit_many(requests)
    assert [bool(result.candidates) for result in together] == [True, False, True]
    for request, result in zip(requests, together, strict=True):
        alone = small_engine.edit(request.image, SOURCE, TARGET, **request.settings)
        assert result.settings == alone.settings
        assert_close(result.latents, alone.latents, MAGNIFIED)


# --- when -----------------------------------------------------------------------------------------


@pytest.fixture
def automatic(small_engine, monkeypatch):
    """The engine of a model whose own settings are automatic."""
    own = small_engine.model.default_settings.with_values({"auto": True})
    monkeypatch.setattr(small_engine.model, "default_settings", own)
    return small_engine


def test_a_models_own_settings_may_be_automatic(automatic):
    assert automatic.edit(picture(), SOURCE, TARGET, seed=1).candidates
    plain = automatic.edit(picture(), SOURCE, TARGET, seed=1, auto=False)
    assert not plain.candidates


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_of_the_caller_is_a_plain_edit(automatic, name):
    default = getattr(automatic.default_settings, name)
    values = {"amplify": {"dog": 2.0}, "blend": ("cat", "dog")}
    given = {name: values.get(name, default)}
    assert not automatic.edit(picture(), SOURCE, TARGET, **given).candidates
    assert automatic.edit(picture(), SOURCE, TARGET, **given, auto=True).candidates


def test_several_targets_and_callbacks_are_plain_edits_or_refused(automatic):
    several = {"target": [TARGET, OTHER]}
    heard = {"target": TARGET, "callback_on_step_end": lambda step, t, latents: None}
    for options, named in ((several, "one target"), (heard, "callback")):
        assert not automatic.edit(picture(), SOURCE, **options).candidates
        with pytest.raises(SettingsError, match=named):
            automatic.edit(picture(), SOURCE, settings="auto", **options)
    with pytest.raises(SettingsError, match="must be 'auto', EditSettings"):
        automatic.edit(picture(), SOURCE, TARGET, settings="best")
