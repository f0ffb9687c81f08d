"""Widgets as settings."""

from __future__ import annotations

import pytest

from icd_engine.errors import SettingsError
from icd_engine.integrations.comfyui.fields import OWN, OWN_NUMBER, blend_words, settings


def test_what_is_left_alone_is_the_models_own():
    left = {"guidance_scale": OWN_NUMBER, "control": OWN, "anchor": -1, "mask_from": OWN}
    assert settings(**left) == {}
    assert settings(more=" ", blend=" ") == {}


def test_what_is_chosen():
    chosen = settings('{"amplify": {"red": 2}}', "cat: dog", anchor=0.0, control="refine")
    assert chosen == {
        "anchor": 0.0,
        "control": "refine",
        "blend": (["cat"], ["dog"]),
        "amplify": {"red": 2},
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [("cat", (["cat"], ["cat"])), ("a b, c : d", (["a b", "c"], ["d"]))],
)
def test_blend_words(text, expected):
    assert blend_words(text) == expected


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"more": "[1]"}, "JSON object"),
        ({"more": "{"}, "JSON object"),
        ({"more": '{"mask": "/etc/passwd"}'}, "input of its own"),
        ({"more": '{"anchor": 1}', "anchor": 0.5}, "anchor is chosen"),
        ({"more": '{"anchr": 1}'}, "did you mean 'anchor'"),
        ({"blend": "a:b:c"}, "blend"),
        ({"blend": "a,,b"}, "blend"),
        ({"anchor": 2.0}, "anchor must lie"),
    ],
)
def test_what_is_refused(values, why):
    with pytest.raises(SettingsError, match=why):
        settings(**values)
