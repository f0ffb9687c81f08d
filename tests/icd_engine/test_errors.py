"""Errors: one family, and each is also the built-in a caller would expect."""

import pickle

import pytest

from icd_engine import errors


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("ImageError", ValueError),
        ("PromptError", ValueError),
        ("SettingsError", ValueError),
        ("BundleError", ValueError),
        ("RunnerError", RuntimeError),
    ],
)
def test_error_is_icd_error_and_builtin(name, builtin):
    error = getattr(errors, name)
    assert issubclass(error, errors.IcdError) and issubclass(error, builtin)


def test_out_of_memory_is_a_runner_error():
    assert issubclass(errors.OutOfMemoryError, errors.RunnerError)


def test_the_text_is_one_short_line_without_addresses():
    error = errors.SettingsError(f"tau:\n  not {object()!r}\tand " + "x" * 1000)
    assert str(error).startswith("tau: not <object object> and xxx")
    assert len(str(error)) == errors.LONGEST and str(error).endswith("...")
    again = pickle.loads(pickle.dumps(error))  # as worker processes hand it on
    assert type(again) is errors.SettingsError and str(again) == str(error)


class Broken:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a word", "'a word'"),
        (0.5, "0.5"),
        ((0.1, [0.2]), "(0.1, [0.2])"),
        ("x" * 10_000, "xxx...xxx"),
        (10**5000, "an object of type int"),
        ([10**5000], "an object of type list"),
        (Broken(), "<Broken instance"),
        (list(range(10_000)), "[0, 1, 2, 3, 4, 5, ...]"),
        ("a\nb", r"'a\nb'"),
    ],
    ids=["word", "number", "nested", "long", "digits", "digits inside", "broken", "list", "lines"],
)
def test_what_is_shown_of_a_value(value, text):
    shown = errors.shown(value)
    assert text in shown and len(shown) <= 200


def test_a_value_that_contains_itself_is_shown():
    value: list = []
    value.append(value)
    for _ in range(100_000):
        value = [value]
    assert len(errors.shown(value)) < 50
