"""Which process a model belongs to: the threads it computes with do not come along when one is
forked, and whoever waits for them waits without end."""

import os
from functools import cache

from icd_engine.errors import RunnerError


@cache
def first_process() -> int:
    """The id of the process that asked first; forked processes inherit the answer."""
    return os.getpid()


def forked() -> RunnerError:
    """What to raise in a process that was forked after a model had been loaded."""
    return RunnerError(
        "this process was forked from one that had loaded a model, whose threads did not come "
        "along: start processes by the 'spawn' start method (multiprocessing.get_context('spawn')) "
        "and load the model there"
    )
