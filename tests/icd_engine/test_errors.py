"""Errors: one family, and each is also the built-in a caller would expect."""

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
