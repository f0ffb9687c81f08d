"""The version, where every floor finds it."""

__version__ = "0.1.0"
