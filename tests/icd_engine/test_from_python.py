"""What a Python program does around edits: settings given again, buffers, numpy's numbers, seeds."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import icd_engine
from icd_engine.errors import PromptError, SettingsError
from icd_engine.results import EditRequest, EditResult
from icd_engine.settings import EditSettings
from tests.icd_engine.plain_loops import OTHER, ROUNDING, SOURCE, TARGET, assert_close, picture

OWN = Image.fromarray(np.random.default_rng(2).integers(0, 256, (48, 80, 3), dtype=np.uint8))
GREY = np.linspace(0, 1, 80, dtype=np.float32) * np.ones((48, 1), dtype=np.float32)
EDITS = {
    "plain": {},
    "masked": {"mask": GREY, "seed": 4},
    "mask picture": {"mask": Image.fromarray((GREY * 255).astype(np.uint8)), "feather": 3.5},
    "words": {"mask_from": "words", "paste_back": False},
    "function": {"mask_from": lambda picture, words: np.tri(48, 80)},
    "blend": {"blend": ("cat", "dog"), "amplify": {"dog": 3.0}, "tau": (0.5, 0.9)},
    "windows": {"cross_replace": {"dog": (0.2, 0.9)}, "anchor": 0.5, "detail": 0.25},
    "switch": {"control": "switch", "mask": GREY},
}


def assert_equal(first: EditResult, again: EditResult) -> None:
    """To the bit, settings and masks too."""
    assert torch.equal(first.latents, again.latents) and np.array_equal(first.image, again.image)
    assert (first.masks is None) == (again.masks is None)
    assert first.masks is None or np.array_equal(first.masks, again.masks)
    assert first.settings == again.settings


@pytest.mark.parametrize("name", EDITS)
def test_an_edits_settings_repeat_it(small_engine, name):
    first = small_engine.edit(OWN, SOURCE, TARGET, **EDITS[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_names = small_engine.edit(OWN, SOURCE, TARGET, **first.settings.as_dict())
        by_settings = small_engine.edit(OWN, SOURCE, TARGET, settings=first.settings)
        by_mapping = small_engine.edit(OWN, SOURCE, TARGET, settings=first.settings.as_dict())
    assert_equal(first, by_names)
    assert_equal(first, by_settings)
    assert_equal(first, by_mapping)


@pytest.mark.parametrize("name", EDITS)
def test_they_repeat_it_of_a_kept_inversion_and_in_edit_many(small_engine, name):
    kept = small_engine.invert(OWN, SOURCE, seed=EDITS[name].get("seed"))
    first = kept.edit(TARGET, **EDITS[name])
    assert_equal(first, kept.edit(TARGET, settings=first.settings))
    assert_equal(first, kept.edit(TARGET, **first.settings.as_dict()))
    whole = small_engine.edit(OWN, SOURCE, TARGET, **EDITS[name])
    for settings in (whole.settings, whole.settings.as_dict()):
        (one,) = small_engine.edit_many([EditRequest(OWN, SOURCE, TARGET, settings)])
        assert_equal(whole, one)


def test_what_was_chosen_automatically_is_repeated_plainly(small_engine):
    first = small_engine.edit(OWN, SOURCE, TARGET, settings="auto", mask=GREY)
    again = small_engine.edit(OWN, SOURCE, TARGET, settings=first.settings)
    assert first.settings == again.settings and again.settings.auto is False
    assert not again.candidates and np.array_equal(first.settings.mask, again.settings.mask)
    # Rows of another batch size, magnified by random weights: see test_engine
    assert_close(first.latents, again.latents, 16 * ROUNDING)


def test_they_repeat_it_of_a_size_several_targets_and_a_loaded_inversion(small_engine, tmp_path):
    given = {"size": (96, 64), "mask": GREY}
    first = small_engine.edit(OWN, SOURCE, TARGET, **given)
    again = small_engine.edit(OWN, SOURCE, TARGET, size=(96, 64), settings=first.settings)
    assert_equal(first, again)
    both = first.inversion.edit([TARGET, OTHER], settings=first.settings)
    repeated = first.inversion.edit([TARGET, OTHER], settings=both.settings)
    assert torch.equal(both.latents, repeated.latents)
    loaded = small_engine.load_inversion(first.inversion.save(tmp_path / "kept"))
    with pytest.warns(UserWarning, match="do not carry the picture"):
        edited = loaded.edit(TARGET, mask=np.tri(64, 96))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what could not be done is in the settings
        assert_equal(edited, loaded.edit(TARGET, settings=edited.settings))


def test_the_functions_of_the_package(small_bundle):
    options = {"model": str(small_bundle), "device": "cpu"}
    first = icd_engine.edit(OWN, SOURCE, TARGET, mask=GREY, **options)
    assert_equal(first, icd_engine.edit(OWN, SOURCE, TARGET, settings=first.settings, **options))
    again = icd_engine.edit(OWN, SOURCE, TARGET, **first.settings.as_dict(), **options)
    assert_equal(first, again)


def test_other_arguments_go_over_settings(small_engine):
    settings = EditSettings(mask=GREY, seed=4, guidance_scale=2.0, blend=("cat", "dog"))
    changed = small_engine.edit(
        OWN, SOURCE, TARGET, settings=settings, guidance_scale=7.0, mask=None, blend=None
    )
    expected = small_engine.edit(OWN, SOURCE, TARGET, seed=4, guidance_scale=7.0)
    assert_equal(changed, expected)
    assert settings.guidance_scale == 2.0 and changed.settings.mask is None
    kept = small_engine.invert(OWN, SOURCE, seed=4)
    again = kept.edit(TARGET, settings=replace(settings, mask=None, blend=None), guidance_scale=7.0)
    assert again.settings.guidance_scale == 7.0


@pytest.mark.parametrize("settings", ["best", 5, True, [("tau", 1)], np.zeros(3)], ids=str)
def test_what_are_no_settings(small_engine, inversion, settings):
    for edit in (
        lambda: small_engine.edit(OWN, SOURCE, TARGET, settings=settings),
        lambda: inversion.edit(TARGET, settings=settings),
    ):
        with pytest.raises(SettingsError, match="settings must be 'auto', EditSettings or names"):
            edit()
    with pytest.raises(SettingsError, match="unknown setting 'tua', did you mean 'tau'"):
        small_engine.edit(OWN, SOURCE, TARGET, settings={"tua": 0.5})


# --- buffers --------------------------------------------------------------------------------------


def test_a_buffer_just_written_is_edited_and_edited_again(small_engine):
    image, mask = io.BytesIO(), io.BytesIO()
    OWN.save(image, "PNG")
    Image.fromarray((GREY * 255).astype(np.uint8)).save(mask, "PNG")
    first, again = (small_engine.edit(image, SOURCE, TARGET, mask=mask) for _ in range(2))
    assert_equal(first, again)
    assert_equal(first, small_engine.edit(OWN, SOURCE, TARGET, mask=Image.open(mask)))
    assert Image.open(image).size == OWN.size
    both = small_engine.edit_many([EditRequest(image, SOURCE, TARGET, {"mask": mask})] * 2)
    for one in both:
        assert_close(one.latents, first.latents)


def test_the_callers_picture_and_mask_are_left_as_they_were(small_engine):
    own, mask = OWN.convert("RGBA"), Image.fromarray((GREY * 255).astype(np.uint8))
    before = own.tobytes(), mask.tobytes()
    result = small_engine.edit(own, SOURCE, TARGET, mask=mask)
    result.inversion.picture.paste("white", (0, 0, 80, 48))
    assert (own.tobytes(), mask.tobytes()) == before and (own.mode, mask.mode) == ("RGBA", "L")


# --- numpy's numbers and texts --------------------------------------------------------------------


def test_numbers_and_texts_of_numpy(small_engine):
    size = tuple(np.array([96, 64]))
    result = small_engine.edit(
        OWN,
        np.str_(SOURCE),
        np.array([TARGET, OTHER]).tolist() + [np.str_(TARGET)],
        size=size,
        seed=np.uint16(4),
        control=np.str_("refine"),
        output_type=np.str_("pil"),
    )
    expected = small_engine.edit(
        OWN, SOURCE, [TARGET, OTHER, TARGET], size=(96, 64), seed=4, control="refine"
    )
    assert_equal(expected, result)
    assert type(result.inversion.source) is str and type(result.inversion.size[0]) is int
    inversion = small_engine.invert(OWN, SOURCE, seed=np.int64(4), size=size)
    assert inversion.seed == 4 and type(inversion.seed) is int
    pictures = [small_engine.generate(TARGET, seed=s, size=size)[0] for s in (2, np.int8(2))]
    assert np.array_equal(*pictures)


@pytest.mark.parametrize("wrong", [True, np.bool_(True), 64.0, np.float32(64), "64"], ids=repr)
def test_a_side_is_a_whole_number(small_engine, wrong):
    for size in ((wrong, 64), (64, wrong)):
        with pytest.raises(SettingsError, match="size must be"):
            small_engine.edit(OWN, SOURCE, TARGET, size=size)


# --- generated pictures ---------------------------------------------------------------------------


def test_a_prompts_picture_does_not_depend_on_the_others(small_engine):
    together = small_engine.generate([SOURCE, TARGET, OTHER], seed=3, output_type="latent")
    for i, prompt in enumerate([SOURCE, TARGET, OTHER]):
        alone = small_engine.generate(prompt, seed=3 + i, output_type="latent")
        assert_close(together[i : i + 1], alone)
    other = small_engine.generate(TARGET, seed=3, output_type="latent")
    assert float((other - together[1:2]).abs().max()) > 0.01
    last = small_engine.generate([SOURCE, TARGET], seed=2**63 - 1, output_type="latent")
    assert last.isfinite().all()


# --- errors and warnings about prompts ------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "settings", "text"),
    [
        ("", TARGET, {}, "^the source prompt is empty"),
        (SOURCE, " ", {}, "^the target prompt is empty"),
        (SOURCE, [TARGET], {"blend": ("zebra", "dog")}, "not occur in the source prompt 'a cat"),
        (SOURCE, [TARGET], {"blend": ("cat", "zebra")}, "not occur in the target prompt 'a dog"),
        (SOURCE, [TARGET, " ", OTHER], {}, "^target prompt 2 of 3 is empty"),
        (SOURCE, [TARGET, OTHER], {"amplify": {"dog": 2}}, "not occur in target prompt 2 of 2 'a"),
        (5, TARGET, {}, "^the source prompt must be a text of valid characters, not 5"),
        (SOURCE, [TARGET, "\ud800"], {}, "^target prompt 2 of 2 must be a text"),
        (SOURCE, [], {}, r"^a target prompt, or a list of them, is needed, not \[\]"),
    ],
    ids=repr,
)
def test_errors_say_source_or_target(small_engine, source, target, settings, text):
    with pytest.raises(PromptError, match=text):
        small_engine.edit(OWN, source, target, **settings)


def test_errors_of_generation_say_which_prompt(small_engine):
    with pytest.raises(PromptError, match=r"^the prompt is empty"):
        small_engine.generate("")
    with pytest.raises(PromptError, match=r"^prompt 2 of 2 is empty"):
        small_engine.generate([SOURCE, " "])


@pytest.mark.parametrize("which", ["source", "target"])
def test_a_cut_prompt_is_named(small_engine, which):
    prompts = {"source": SOURCE, "target": TARGET, which: " ".join([SOURCE] * 20)}
    with pytest.warns(UserWarning, match=f"the {which} prompt is longer than 77 tokens"):
        small_engine.edit(picture(), **prompts)


def warned(edit) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        edit()
    return [str(one.message) for one in found]


def test_weights_in_prompts_are_warned_of_once_an_edit(small_engine):
    source, targets = "a ((cat)) sits on the mat", ["a (dog:1.3) sits on the mat", "a [dog] sits"]
    (text,) = warned(lambda: small_engine.edit(OWN, source, targets))
    assert text.startswith("the source prompt has '((cat))'") and "amplify={" in text
    (text,) = warned(lambda: small_engine.edit(OWN, SOURCE, targets))
    assert text.startswith("target prompt 1 of 2 has '(dog:1.3)'")
    kept = small_engine.invert(OWN, SOURCE)
    (text,) = warned(lambda: kept.edit(targets[1]))
    assert text.startswith("the target prompt has '[dog]'")
    requests = [EditRequest(OWN, SOURCE, target) for target in (*targets, TARGET)]
    assert len(warned(lambda: small_engine.edit_many(requests))) == 2
    plain = "a cat (sleeping) sits on the mat"
    assert warned(lambda: small_engine.edit(OWN, plain, "a dog (sleeping) at 12:30")) == []
