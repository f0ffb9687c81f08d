"""EditSettings: what is accepted, what is refused, and how defaults fill in."""

import json
import subprocess
import sys

import numpy as np
import pytest

from icd_engine.errors import SettingsError
from icd_engine.settings import EditSettings

GOOD = {
    "guidance_scale": [0, 19.0, 100, np.float32(7)],
    "tau": [0, 0.8, 1, (0.7, 0.8), [0.5, 0.5]],
    "tau_low": [0, 0.3],
    "control": ["auto", "replace", "refine", "none"],
    "cross_replace": [0.4, (0.2, 0.8), {"dog": 0.4, "default": (0, 1)}, {}],
    "self_replace": [1, (0, 0.5)],
    "amplify": [{"dog": 3}, {"dog": -20.0}, {}],
    "blend": [
        "cat",
        ["a", "cat"],
        ("cat", "dog"),
        (["a", "cat"], "polar bear"),
        [["cat"], ["dog"]],
    ],
    "seed": [0, 2**63 - 1, np.int64(5)],
    "feather": [0, 2.5, 1000],
    "mask_from": ["words", len],
}
BAD = {
    "guidance_scale": [-1, 101, float("nan"), float("inf"), "7", True, 10**400],
    "tau": [-0.1, 1.1, (0.9, 0.8), (0.1, 0.2, 0.3), (), float("nan"), "x", (0.1, None)],
    "tau_low": [-1, 2, (0, 1)],
    "control": ["swap", 1, ["auto"]],
    "cross_replace": [1.01, (0.5, 0.2), {"dog": 2}, {"": 0.5}, {3: 0.5}, "dog"],
    "self_replace": [-0.5, {"dog": 0.5}],
    "amplify": [{"dog": float("nan")}, {"dog": 21}, {"dog": "2"}, {" ": 2}, ["dog"], 2.0],
    "blend": [
        "",
        (),
        [],
        ("cat",),
        ("a", "b", "c"),
        ("cat", ""),
        ("cat", []),
        3,
        {"cat": "dog"},
        ("cat", [1]),
    ],
    "seed": [-1, 2**63, 1.5, True, "0"],
    "feather": [-1, 1001, float("nan"), "3", True],
    "mask_from": ["sky", "", 3, True, ["words"], np.zeros(3)],
}


def cases(table):
    return [
        pytest.param(name, value, id=f"{name}-{value!r:.20}")
        for name, values in table.items()
        for value in values
    ]


@pytest.mark.parametrize(("name", "value"), cases(GOOD))
def test_accepts(name, value):
    assert getattr(EditSettings(**{name: value}), name) is not None


@pytest.mark.parametrize(("name", "value"), cases(BAD))
def test_refuses_naming_the_field(name, value):
    with pytest.raises(SettingsError, match=name):
        EditSettings(**{name: value})


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("cat", (("cat",), ("cat",))),
        (["red", "cat"], (("red", "cat"), ("red", "cat"))),
        (("cat", "dog"), (("cat",), ("dog",))),
        ([["cat"], ["polar bear"]], (("cat",), ("polar bear",))),
    ],
    ids=["word", "list", "pair", "pair-from-json"],
)
def test_blend_is_kept_as_a_pair(given, kept):
    assert EditSettings(blend=given).blend == kept


@pytest.mark.parametrize(
    "value",
    [10**5000, [10**5000], object(), np.zeros((50, 50)), "x" * 10**5],
    ids=lambda v: type(v).__name__,
)
def test_what_cannot_be_shown_is_refused_in_one_line(value):
    for given in (lambda: EditSettings(guidance_scale=value), lambda: EditSettings(control=value)):
        with pytest.raises(SettingsError) as error:
            given()
        assert (
            len(str(error.value)) < 300
            and "\n" not in str(error.value)
            and " at 0x" not in str(error.value)
        )
    with pytest.raises(SettingsError, match=r"unknown setting|must map names"):
        EditSettings.from_mapping({10**5000: value})


def test_unknown_name_gets_the_nearest_known():
    with pytest.raises(
        SettingsError, match=r"'guidance_scal'.*did you mean 'guidance_scale'.*self_replace"
    ):
        EditSettings.from_mapping({"guidance_scal": 3})
    with pytest.raises(SettingsError, match="names to values"):
        EditSettings.from_mapping(["tau"])


def test_resolve_fills_only_what_is_missing():
    defaults = EditSettings(guidance_scale=7, tau=0.8, cross_replace=0.4, seed=1)
    settings = EditSettings(guidance_scale=0, seed=0).resolve(defaults)
    assert settings == EditSettings(guidance_scale=0, tau=0.8, cross_replace=0.4, seed=0)


@pytest.mark.parametrize(
    ("own", "default", "resolved"),
    [
        ({"dog": 0.2}, 0.4, {"dog": 0.2, "default": 0.4}),
        ({"dog": 0.2}, {"default": 0.5, "cat": 1.0}, {"dog": 0.2, "default": 0.5}),
        ({"dog": 0.2, "default": 0.0}, 0.4, {"dog": 0.2, "default": 0.0}),
        ({"dog": 0.2}, None, {"dog": 0.2}),
    ],
    ids=["share", "windows", "own-default", "no-default"],
)
def test_windows_per_word_take_the_default_share(own, default, resolved):
    settings = EditSettings(cross_replace=own).resolve(EditSettings(cross_replace=default))
    assert settings.cross_replace == resolved


def test_mask_does_not_take_part_in_equality_or_repr():
    masked = EditSettings(mask=np.ones((4, 4)), tau=0.8)
    assert masked == EditSettings(tau=0.8) and "mask=" not in repr(masked)
    assert masked.resolve(EditSettings()).mask is masked.mask
    assert masked.as_json() == {"tau": 0.8, "mask": True}
    assert masked.as_dict() == {"tau": 0.8, "mask": masked.mask}


def test_a_dict_makes_the_same_settings():
    """Whatever they hold, and what is done to the dict does nothing to them."""
    mask = np.ones((4, 4))
    settings = EditSettings(
        tau=(0.7, 0.8), amplify={"dog": 3.0}, blend=("cat", "dog"), mask=mask, mask_from=len
    )
    values = settings.as_dict()
    again = EditSettings(**values)
    assert again == settings and again.mask is mask and again.mask_from is len
    assert list(values) == ["tau", "amplify", "blend", "mask", "mask_from"]
    values["amplify"]["dog"] = 5.0
    assert settings.amplify == {"dog": 3.0} and EditSettings().as_dict() == {}


def test_texts_of_numpy_become_plain_ones():
    given = {"control": "refine", "mask_from": "words", "blend": "cat", "seed": 3}
    settings = EditSettings(
        control=np.str_("refine"),
        mask_from=np.str_("words"),
        blend=np.str_("cat"),
        seed=np.uint8(3),
        amplify={np.str_("cat"): np.float32(2)},
    )
    assert settings == EditSettings(**given, amplify={"cat": 2.0})
    assert "np." not in repr(settings)
    for name in ("seed", "guidance_scale", "feather", "tau", "anchor"):
        with pytest.raises(SettingsError, match=name):
            EditSettings(**{name: np.bool_(True)})


def test_a_dict_survives_json():
    settings = EditSettings(
        tau=(0.7, 0.8), cross_replace={"dog": (0.0, 0.5)}, blend=("cat", "dog"), seed=3
    )
    assert EditSettings.from_mapping(json.loads(json.dumps(settings.as_json()))) == settings


def test_caller_mapping_is_copied():
    amplify = {"dog": 3.0}
    settings = EditSettings(amplify=amplify)
    amplify["dog"] = 5.0
    assert settings.amplify == {"dog": 3.0}


def test_no_framework_is_imported():
    code = "import sys, icd_engine.settings, icd_engine.sampling, icd_engine.editing; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_known_values_are_not_checked_again(monkeypatch):
    given = EditSettings(tau=0.7)
    defaults = EditSettings(guidance_scale=4.0, tau=0.8)

    def checked(self) -> None:
        raise AssertionError("checked again")

    monkeypatch.setattr(EditSettings, "__post_init__", checked)
    resolved = given.resolve(defaults).with_values({"mask": "a mask"})
    assert (resolved.guidance_scale, resolved.tau, resolved.mask) == (4.0, 0.7, "a mask")
    assert given.mask is None and given.guidance_scale is None


def test_a_function_that_makes_masks_is_only_noted():
    given = EditSettings(mask_from=len)
    assert given.as_json() == {"mask_from": True} and not given.from_words
    words = EditSettings(mask_from="words")
    assert words.from_words and words.as_json() == {"mask_from": "words"}


def test_defaults_cannot_contradict_what_is_given():
    with pytest.raises(SettingsError, match="control 'switch' has no maps"):
        EditSettings(mask_from="words", control="switch")
    with pytest.raises(SettingsError, match="control 'switch' has no maps"):
        EditSettings(blend="cat").resolve(EditSettings(control="switch"))
