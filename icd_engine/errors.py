"""Every error a caller can meet: bad input raises exactly one of these, one line, naming the culprit."""


class IcdError(Exception):
    """Base of all errors of icd_engine."""


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
