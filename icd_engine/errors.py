"""Every error a caller can meet: bad input raises exactly one of these, one short line, naming the
culprit."""

import re
import reprlib

LONGEST = 500  # characters of an error's text
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]{4,}")
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 160
_SHORT.maxlevel = 3


class IcdError(Exception):
    """Base of all errors of icd_engine.

    Its text is one line without memory addresses, whatever it quotes.
    """

    def __init__(self, text: object = ""):
        line = _ADDRESS.sub("", " ".join(str(text).split()))
        super().__init__(line if len(line) <= LONGEST else line[: LONGEST - 3] + "...")


class ImageError(IcdError, ValueError):
    """A picture or mask that cannot be read, is out of limits, or holds no usable numbers."""


class PromptError(IcdError, ValueError):
    """A prompt that cannot be used, or a word that a setting names and the prompt does not hold."""


class SettingsError(IcdError, ValueError):
    """A setting that is unknown, of the wrong type or out of range."""


class BundleError(IcdError, ValueError):
    """A model folder or weight file that is missing, damaged or does not fit."""


class RunnerError(IcdError, RuntimeError):
    """A network call that the requested runner or device cannot do."""


class OutOfMemoryError(RunnerError):
    """A network call that needs more memory than there is.

    What it took is free again: the next call may fit.
    """


def shown(value: object) -> str:
    """Any value as an error quotes it: its repr, cut, or the name of its type where it has no
    usable one."""
    try:
        return _SHORT.repr(value)
    except Exception:  # the caller's object: its repr may do anything
        return f"an object of type {type(value).__name__}"
