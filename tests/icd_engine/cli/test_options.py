"""Option texts become settings; what cannot be read names its option."""

import pytest
import typer

from icd_engine.cli import options
from icd_engine.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "value"), [("0.7", 0.7), ("0.1,0.6", (0.1, 0.6)), ("0, 1", (0.0, 1.0)), (None, None)]
)
def test_share(text, value):
    assert options.share("--tau", text) == value


@pytest.mark.parametrize(
    ("texts", "value"),
    [
        ([], None),
        (["0.4"], 0.4),
        (["0.1,0.6"], (0.1, 0.6)),
        (["default=0.3", "dog=0.1,0.6"], {"default": 0.3, "dog": (0.1, 0.6)}),
        (["red dog=0.2"], {"red dog": 0.2}),
    ],
)
def test_cross_replace(texts, value):
    assert options.cross_replace(texts) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (None, None),
        ("cat", (["cat"], ["cat"])),
        ("cat:dog", (["cat"], ["dog"])),
        ("black cat, bow:dog", (["black cat", "bow"], ["dog"])),
    ],
)
def test_blend(text, value):
    assert options.blend(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("128x96", (128, 96)), (" 64X64", (64, 64)), (None, None)]
)
def test_size(text, value):
    assert options.size(text) == value


def test_by_word():
    assert options.by_word("--amplify", ["a=b=2", "dog=-1"], options.number) == {
        "a=b": 2.0,
        "dog": -1.0,
    }


@pytest.mark.parametrize(
    ("option", "read"),
    [
        ("--tau", lambda: options.share("--tau", "")),
        ("--tau", lambda: options.share("--tau", "0.1,0.2,0.3")),
        ("--self-replace", lambda: options.share("--self-replace", "half")),
        ("--cross-replace", lambda: options.cross_replace(["0.3", "0.4"])),
        ("--cross-replace", lambda: options.cross_replace(["0.3", "dog=0.4"])),
        ("--cross-replace", lambda: options.cross_replace(["dog=much"])),
        ("--amplify", lambda: options.by_word("--amplify", ["dog"], options.number)),
        ("--amplify", lambda: options.by_word("--amplify", ["=2"], options.number)),
        ("--amplify", lambda: options.by_word("--amplify", ["dog=2", "dog=3"], options.number)),
        ("--blend", lambda: options.blend("cat:")),
        ("--blend", lambda: options.blend("a:b:c")),
        ("--blend", lambda: options.blend("")),
        ("--size", lambda: options.size("128")),
        ("--size", lambda: options.size("-8x8")),
    ],
)
def test_an_unreadable_text_names_its_option(option, read):
    with pytest.raises(typer.BadParameter) as caught:
        read()
    assert option in caught.value.format_message()


def test_given_keeps_what_is_set_and_checks_it():
    assert options.given(tau=0.5, seed=None) == {"tau": 0.5}
    with pytest.raises(SettingsError, match="tau"):
        options.given(tau=1.5)
