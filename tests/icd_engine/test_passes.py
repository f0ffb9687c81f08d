"""What runs together: rows and calls of a pass, masks, and callbacks after every hop."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from icd_engine.decoding import MOST_BRANCHES
from icd_engine.errors import SettingsError
from icd_engine.passes import fitting
from icd_engine.results import EditRequest
from icd_engine.settings import EditSettings
from tests.icd_engine.plain_loops import (
    DECODE,
    ENCODE,
    OTHER,
    SOURCE,
    TARGET,
    assert_close,
    hop,
    mixed_requests,
    picture,
    recorded,
)

# --- rows and calls -------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [1, 3])
def test_only_the_needed_rows_run(small_engine, targets):
    with recorded(small_engine) as seen:
        result = small_engine.edit(
            picture(), SOURCE, [TARGET] * targets, blend=("cat", "dog"), guidance_scale=19.0
        )
        assert seen["encode"] == [1] * 4
        assert seen["decode"] == [4 + targets, *[targets] * 3]  # the source's hops run in one
        assert result.network_calls == 8
        seen["decode"].clear()
        assert result.inversion.edit([TARGET, OTHER]).network_calls == 4
        assert seen["decode"] == [2] * 4  # the source branch is kept
        assert seen["encode"] == [1] * 4


@pytest.mark.parametrize(
    "settings",
    [{}, {"blend": ("cat", "sits")}, {"mask": np.tri(64), "control": "none"}, {"anchor": 0.0}],
    ids=["plain", "blend", "mask", "unanchored"],
)
def test_a_further_edit_equals_a_first_one(small_engine, settings):
    """With another edit before it, whose source branch it takes, and without."""
    kept = small_engine.invert(picture(), SOURCE)
    first = kept.edit(TARGET, **settings)
    kept.edit(OTHER)
    again = kept.edit([SOURCE, TARGET], **settings)
    assert_close(again.latents[1:], first.latents)
    assert torch.equal(again.source_latents, first.source_latents)
    assert first.hop_masks is None or torch.equal(again.hop_masks[:, 1:], first.hop_masks)


def test_source_branches_are_kept_for_the_last_few(small_engine):
    invert = partial(small_engine.invert, source=SOURCE, prepare_edits=False)
    inversions = [invert(picture(i)) for i in range(MOST_BRANCHES + 1)]
    with recorded(small_engine) as seen:
        for kept in [*inversions, inversions[-1], inversions[0]]:
            kept.edit(TARGET)
    first, again = [5, 1, 1, 1, 1], [1] * 4  # all source rows and one to carry them, then targets
    assert seen["decode"] == first * len(inversions) + again + first


def test_unanchored_source_rows_run_hop_by_hop_and_are_kept(small_engine):
    kept = small_engine.invert(picture(), SOURCE)
    with recorded(small_engine) as seen:
        for anchor in (0.0, 0.0, 1.0, 0.5):
            kept.edit(TARGET, anchor=anchor)
    assert seen["decode"] == [2] * 4 + [1] * 4 * 3


@pytest.mark.parametrize("anchor", [0.0, 1.0])
def test_a_callback_sees_all_rows_and_leaves_nothing_kept(small_engine, anchor):
    kept = small_engine.invert(picture(), SOURCE)
    plain = kept.edit(TARGET, anchor=anchor)
    seen = []
    shifted = kept.edit(
        TARGET, anchor=anchor, callback_on_step_end=lambda k, t, x: seen.append(len(x)) or x + 1
    )
    assert seen == [2] * 4
    assert not torch.equal(shifted.source_latents, plain.source_latents)
    again = kept.edit(TARGET, anchor=anchor)
    assert torch.equal(again.source_latents, plain.source_latents)


# --- masks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("blend", [None, ("cat", "dog")], ids=["mask", "mask_and_blend"])
def test_outside_the_mask_the_source_stays(inversion, blend):
    mask = np.zeros((64, 64))
    mask[:, 32:] = 1
    result = inversion.edit(TARGET, mask=mask, blend=blend)
    assert not result.hop_masks[..., :4].any()
    assert torch.equal(result.latents[..., :4], result.source_latents[..., :4])
    assert not torch.equal(result.latents[..., 4:], result.source_latents[..., 4:])


def test_blend_words_close_a_part_after_every_hop(small_engine):
    kept, seen = small_engine.invert(picture(), SOURCE, size=(128, 128)), []
    result = kept.edit(
        TARGET, blend="mat", callback_on_step_end=lambda k, t, x: seen.append(x.clone())
    )
    rows, closed = torch.stack(seen), (result.hop_masks[:, 0] == 0)[:, None].expand(4, 4, 16, 16)
    assert 0 < int(closed.sum()) < closed.numel()
    assert torch.equal(rows[:, 1][closed], rows[:, 0][closed])
    assert not torch.equal(rows[:, 1], rows[:, 0])


def test_open_mask_is_the_plain_edit(inversion):
    assert torch.equal(
        inversion.edit(TARGET, mask=np.ones((64, 64))).latents, inversion.edit(TARGET).latents
    )


# --- many at once ---------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [16, 3], ids=["one_pass", "in_turns"])
def test_edit_many_equals_single_edits(small_engine, monkeypatch, targets):
    monkeypatch.setattr("icd_engine.passes.MOST_TARGETS", targets)
    requests = mixed_requests()
    for request, result in zip(requests, small_engine.edit_many(requests), strict=True):
        given = {
            name: getattr(request.settings, name) for name in EditSettings.__dataclass_fields__
        }
        alone = small_engine.edit(request.image, request.source, request.target, **given)
        assert_close(result.latents, alone.latents)
        assert_close(result.source_latents, alone.source_latents)
        assert_close(result.inversion.latents, alone.inversion.latents)
        assert result.settings == alone.settings
        assert len(result.images) == len(alone.images)
        assert (result.hop_masks is None) == (alone.hop_masks is None)
        if alone.hop_masks is not None:
            assert torch.equal(result.hop_masks, alone.hop_masks)


def test_edit_many_shares_passes(small_engine):
    with recorded(small_engine) as seen:
        small_engine.edit_many(mixed_requests())
    assert seen["encode"] == [5] * 4
    assert seen["decode"] == [4 * 5 + 6, 6, 6, 6]
    assert small_engine.edit_many([]) == []


def test_anchored_and_unanchored_edits_do_not_share_a_pass(small_engine):
    settings = [{}, {"anchor": 0.0}, {"anchor": 0.5}]
    requests = [EditRequest(picture(i), SOURCE, TARGET, own) for i, own in enumerate(settings)]
    with recorded(small_engine) as seen:
        together = small_engine.edit_many(requests)
    assert seen["encode"] == [2] * 4 + [1] * 4
    assert seen["decode"] == [4 * 2 + 2, 2, 2, 2] + [2] * 4
    for request, result in zip(requests, together, strict=True):
        alone = small_engine.edit(request.image, SOURCE, TARGET, **request.settings)
        assert_close(result.latents, alone.latents)


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [
        ([], []),
        ([2], [1]),
        ([2, 2, 2], [2, 1]),
        ([9, 2, 2, 1], [1, 2, 1]),
    ],
    ids=["none", "one", "full", "too_large_alone"],
)
def test_passes_hold_at_most_their_rows(rows, sizes):
    found = []
    while rows:
        found.append(fitting(rows, 4))
        rows = rows[found[-1] :]
    assert found == sizes


# --- callbacks ------------------------------------------------------------------------------------


def test_callbacks_see_every_hop(small_engine):
    up, down, ticks = [], [], []
    note = lambda seen: lambda step, t, latents: seen.append((step, t, tuple(latents.shape)))  # noqa: E731
    kept = small_engine.invert(
        picture(), SOURCE, callback_on_step_end=note(up), progress=ticks.append
    )
    result = kept.edit([TARGET, OTHER], callback_on_step_end=note(down), progress=ticks.append)
    assert up == [(k, t, (1, 4, 8, 8)) for k, t in enumerate(ENCODE[1:])]
    assert down == [(k, t, (3, 4, 8, 8)) for k, t in enumerate(DECODE[1:])]
    assert ticks == [1] * 8
    assert result.latents.shape == (2, 4, 8, 8)


def test_progress_leaves_the_source_branch_kept(small_engine):
    inversion = small_engine.invert(picture(), SOURCE)
    with recorded(small_engine) as seen:
        first = inversion.edit(TARGET, progress=lambda hops: None)
        again = inversion.edit(TARGET, progress=lambda hops: None)
    assert seen["decode"] == [1] * 8
    assert_close(again.latents, first.latents)


def test_callback_may_replace_latents(small_engine, inversion):
    result = inversion.edit(
        TARGET,
        anchor=0.0,
        callback_on_step_end=lambda step, t, x: x.clone().fill_(0.5) if t == 259 else None,
    )
    start = torch.full((1, 4, 8, 8), 0.5)
    expected = hop(small_engine, small_engine.runner.decode_network, start, 259, 0, SOURCE, w=0.0)
    assert_close(result.source_latents, expected)


@pytest.mark.parametrize("given", [torch.zeros(1), "latents"], ids=["shape", "kind"])
def test_callback_that_returns_no_latents_is_refused(inversion, given):
    with pytest.raises(SettingsError, match=r"\[2, 4, 8, 8\]"):
        inversion.edit(TARGET, callback_on_step_end=lambda step, t, x: given)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_callback_error_passes_and_leaves_the_engine_whole(small_engine, inversion, error):
    def fail(step, t, latents):
        latents.zero_()
        raise error

    inversion.edit(TARGET)  # so that all later ones are further edits, alike to the bit
    before = inversion.edit(TARGET, blend=("cat", "dog"))
    for run in (
        inversion.edit,
        lambda target, **kw: small_engine.edit(picture(), SOURCE, target, **kw),
    ):
        with pytest.raises(error):
            run(TARGET, blend=("cat", "dog"), callback_on_step_end=fail)
    assert torch.equal(inversion.edit(TARGET, blend=("cat", "dog")).latents, before.latents)
