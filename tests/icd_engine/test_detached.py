"""Inversions and results pickle without their engine and go on with another one; copies keep it."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from icd_engine.engine import Engine
from icd_engine.errors import BundleError, RunnerError, SettingsError
from icd_engine.results import EditRequest, EditResult
from icd_engine.settings import EditSettings
from tests.icd_engine.plain_loops import SOURCE, TARGET, picture

MASK = np.tri(64, dtype=np.float32)


@pytest.fixture(scope="module")
def result(small_engine) -> EditResult:
    return small_engine.edit(picture(), SOURCE, TARGET, mask=MASK, seed=3)


def unpickled(value):
    return pickle.loads(pickle.dumps(value))


def test_a_result_comes_back_whole(result):
    again = unpickled(result)
    assert np.array_equal(again.image, result.image)
    assert torch.equal(again.latents, result.latents) and np.array_equal(again.masks, result.masks)
    assert torch.equal(again.hop_masks, result.hop_masks)
    assert again.settings == result.settings
    assert np.array_equal(again.settings.mask, result.settings.mask)
    assert (again.timings, again.network_calls) == (result.timings, result.network_calls)
    kept, inversion = again.inversion, result.inversion
    assert np.array_equal(kept.picture, inversion.picture)
    assert np.array_equal(kept.decoded, inversion.decoded)
    assert torch.equal(kept.noised, inversion.noised) and torch.equal(kept.latents, kept.noised)
    assert all(map(torch.equal, kept.boundaries, inversion.boundaries))
    assert (kept.source, kept.seed, kept.size) == (SOURCE, 3, (64, 64))
    assert kept.timings == inversion.timings


def test_pickles_carry_no_networks(small_engine, result):
    """All that is in it: the pictures, and the latents four bytes a number."""
    assert len(pickle.dumps(small_engine.invert(picture(), SOURCE))) < 60_000
    assert small_engine.fingerprint in repr(unpickled(result).inversion.__dict__["engine"])
    assert "engine" not in repr(unpickled(result).inversion)


def test_a_result_is_saved_without_an_engine(result, tmp_path):
    path = unpickled(result).save(tmp_path / "again.png")
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(result.image))


def test_what_needs_an_engine_says_how_to_have_one(result, tmp_path):
    again = unpickled(result)
    inversion = unpickled(again.inversion)  # once more, without an engine
    calls = [
        lambda: inversion.edit(TARGET),
        lambda: inversion.search(TARGET),
        lambda: inversion.save(tmp_path / "kept.safetensors"),
        lambda: again.reconstruction,
    ]
    for call in calls:
        with pytest.raises(RunnerError, match=r"engine\.attach"):
            call()
    assert list(tmp_path.iterdir()) == []
    assert inversion.reconstruction.size == (64, 64)  # this one is in the pickle


def test_attached_it_edits_to_the_bit(small_engine, result, tmp_path):
    expected = small_engine.invert(picture(), SOURCE, seed=3).edit(TARGET, mask=MASK)
    again = small_engine.attach(unpickled(result))
    assert isinstance(again, EditResult) and again.inversion.engine is small_engine
    edited = again.inversion.edit(TARGET, mask=MASK)
    assert torch.equal(edited.latents, expected.latents)
    assert np.array_equal(edited.image, expected.image)
    assert np.array_equal(again.reconstruction, result.reconstruction)
    path = again.inversion.save(tmp_path / "kept.safetensors")
    loaded = small_engine.load_inversion(path)
    assert torch.equal(loaded.latents, result.inversion.latents)


def test_attaching_sets_and_returns(small_engine, result):
    inversion = unpickled(result.inversion)
    assert small_engine.attach(inversion) is inversion
    assert small_engine.attach(inversion) is inversion  # and once more changes nothing
    inversion.latents.zero_()  # a copy on the CPU
    assert torch.equal(inversion.noised, result.inversion.noised)


def test_another_engine_of_the_same_model_goes_on(small_bundle, small_engine, result):
    other = Engine.from_pretrained(small_bundle, device="cpu", dtype="float32", runner="eager")
    inversion = other.attach(copy.copy(result.inversion))
    assert inversion.engine is other and result.inversion.engine is small_engine
    assert torch.equal(
        inversion.edit(TARGET, seed=3).latents, result.inversion.edit(TARGET, seed=3).latents
    )


def test_another_model_or_another_thing_is_refused(two_pass_bundle, small_engine, result):
    other = Engine.from_pretrained(two_pass_bundle, device="cpu")
    again = unpickled(result)
    with pytest.raises(BundleError, match="another model"):
        other.attach(again)
    with pytest.raises(RunnerError, match=r"engine\.attach"):
        again.inversion.edit(TARGET)
    for wrong in (None, 3, "kept.safetensors", result.settings):
        with pytest.raises(SettingsError, match="an inversion, a result or a search is needed"):
            small_engine.attach(wrong)


def test_results_of_shared_passes_and_of_a_search(small_engine):
    requests = [EditRequest(picture(seed), SOURCE, TARGET) for seed in (1, 2)]
    results = small_engine.edit_many(requests)
    for one, again in zip(results, unpickled(results), strict=True):
        assert torch.equal(small_engine.attach(again).latents, one.latents)
    segment = lambda picture, words: np.eye(64)  # noqa: E731
    found = results[0].inversion.search(TARGET, edits=3, mask_from=segment)
    again = small_engine.attach(unpickled(found))
    assert np.array_equal(again.contact_sheet(), found.contact_sheet())
    assert [one.settings for one in again.candidates] == [one.settings for one in found.candidates]


def test_an_unanchored_inversion(small_engine, result):
    """Without its encode trajectory, and without the picture."""
    inversion = copy.copy(result.inversion)
    inversion.__dict__.pop("reconstruction", None)
    inversion.__dict__.update(boundaries=None, picture=None, decoded=None)
    again = small_engine.attach(unpickled(inversion))
    assert again.boundaries is None
    with pytest.warns(UserWarning, match="not anchored"):
        again.edit(TARGET)
    with pytest.raises(SettingsError, match="do not carry the picture"):
        _ = again.reconstruction


# --- functions that make masks --------------------------------------------------------------------


def segment(picture, words):
    return np.eye(64)


def test_a_result_has_the_mask_and_not_the_function_that_made_it(small_engine):
    """So that every result pickles, whatever made its mask."""
    nameless = lambda picture, words: np.eye(64)  # noqa: E731
    result = small_engine.edit(picture(), SOURCE, TARGET, mask_from=nameless)
    again = unpickled(result)
    assert again.settings.mask_from is None and np.array_equal(again.settings.mask, np.eye(64))


def test_settings_pickle_with_a_function_that_has_a_name():
    assert unpickled(EditSettings(mask_from=segment)).mask_from is segment
    assert np.array_equal(unpickled(EditSettings(mask=MASK)).mask, MASK)
    # Dropping it would be another edit: Python's own error names the function.
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pickle.dumps(EditSettings(mask_from=lambda picture, words: np.eye(64)))


# --- copies ---------------------------------------------------------------------------------------


def test_copies_keep_the_engine_and_nothing_else(small_engine, result):
    copied = copy.deepcopy(result)
    assert copied.inversion.engine is small_engine
    assert copied.latents is not result.latents and copied.image is not result.image
    assert copied.inversion.noised is not result.inversion.noised
    assert copied.settings.mask is not result.settings.mask
    copied.inversion.picture.paste("white", (0, 0, 64, 64))
    expected = result.inversion.edit(TARGET)
    assert not np.array_equal(copied.inversion.picture, result.inversion.picture)
    assert torch.equal(copied.inversion.edit(TARGET).latents, expected.latents)
    shallow = copy.copy(result.inversion)
    assert shallow is not result.inversion and shallow.noised is result.inversion.noised
    assert torch.equal(shallow.edit(TARGET).latents, expected.latents)
    detached = copy.deepcopy(unpickled(result.inversion))
    assert small_engine.attach(detached).edit(TARGET).images


def test_another_process_goes_on(small_bundle, result, tmp_path):
    path = tmp_path / "result.pickle"
    path.write_bytes(pickle.dumps(result))
    code = f"""
import pickle, icd_engine
engine = icd_engine.Engine.from_pretrained({str(small_bundle)!r}, device="cpu", runner="eager")
again = engine.attach(pickle.load(open({str(path)!r}, "rb")))
print(float(again.inversion.edit({TARGET!r}).latents.double().sum()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = float(result.inversion.edit(TARGET).latents.double().sum())
    assert float(done.stdout.splitlines()[-1]) == pytest.approx(expected, rel=1e-5, abs=1e-3)
