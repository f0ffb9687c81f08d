"""The command line `icd`: each command one file, options and messages in theirs."""

from icd_engine.cli.app import main

__all__ = ["main"]
