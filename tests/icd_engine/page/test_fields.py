"""What the page's fields hold, as prompts and settings, and the way back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from icd_engine.errors import PromptError, SettingsError
from icd_engine.page.fields import Form, painted, shares
from icd_engine.settings import EditSettings

SOURCE, TARGET, OTHER = (
    "a cat sits on the mat",
    "a dog sits on the mat",
    "a red bird sits on the mat",
)
FORM = Form(
    source=SOURCE,
    targets=TARGET,
    seed=3,
    guidance_scale=4.0,
    tau=0.8,
    cross_replace=0.4,
    self_replace=0.3,
    control="auto",
    amplify_word="",
    amplify_factor=2.0,
    blend_source="",
    blend_target="",
    mask_words=False,
    paste_back=False,
    feather=None,
)


def test_targets_are_lines():
    assert replace(FORM, targets=f"\n {TARGET} \n\n{OTHER}\n").prompts() == [TARGET, OTHER]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": " "}, "source prompt is empty"),
        ({"targets": " \n "}, "target prompt is empty"),
        ({"targets": "\n".join([TARGET] * 5)}, "5 target prompts: at most 4"),
    ],
    ids=["no source", "no target", "too many"],
)
def test_prompts_that_are_missing(fields, message):
    with pytest.raises(PromptError, match=message):
        replace(FORM, **fields).prompts()


def test_fields_become_settings():
    form = replace(
        FORM,
        amplify_word=" dog ",
        amplify_factor=3,
        blend_source="cat, mat",
        blend_target="dog",
        tau=None,
    )
    assert EditSettings.from_mapping(form.settings()) == EditSettings(
        guidance_scale=4.0,
        cross_replace=0.4,
        self_replace=0.3,
        control="auto",
        amplify={"dog": 3.0},
        blend=(["cat", "mat"], ["dog"]),
    )


def test_blend_words_are_needed_of_both_prompts():
    with pytest.raises(SettingsError, match="both prompts"):
        replace(FORM, blend_source="cat").settings()


def test_any_painted_layer_counts():
    layers = np.zeros((2, 4, 6, 4), dtype=np.uint8)
    assert painted(layers) is None and painted([]) is None
    layers[0, 1, 2, 3], layers[1, 3, 5, 3] = 255, 1
    assert [tuple(cell) for cell in np.argwhere(painted(layers))] == [(1, 2), (3, 5)]


@pytest.mark.parametrize("hops", range(1, 9))
def test_sliders_show_the_hops_that_were_found(hops):
    """In hundredths, an integer part of share * hops must not lose a hop."""
    for k in range(hops + 1):
        share = shares(EditSettings(self_replace=min(k / hops + 1e-6, 1.0)))["self_replace"]
        assert int(share * hops) == k and share * 100 == pytest.approx(round(share * 100), abs=1e-9)


def test_sliders_show_windows_by_their_upper_end():
    settings = EditSettings(
        tau=(0.6, 0.9), cross_replace={"dog": 0.1, "default": (0.0, 0.4)}, guidance_scale=19.0
    )
    expected = {"tau": 0.9, "cross_replace": 0.4, "guidance_scale": 19.0, "self_replace": 0.0}
    assert shares(settings) == pytest.approx(expected)
