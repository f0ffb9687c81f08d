"""Options that every session of onnxruntime has here: one pool of threads for all of them, and silence."""

from __future__ import annotations

from functools import cache
from typing import Any

from icd_engine.threads import compute_threads


def session_options() -> Any:
    """SessionOptions of a new session; what goes wrong in it is raised, and not printed as well."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    _make_pool()
    # Else every graph of a folder has a pool of its own, as large as the machine
    options.use_per_session_threads = False
    return options


@cache
def _make_pool() -> None:
    """The process's pool, which is fixed once it is made; a program that has made one keeps it."""
    import onnxruntime

    try:
        onnxruntime.set_global_thread_pool_sizes(compute_threads(), 1)
    except Exception as error:  # a class of onnxruntime's own
        if "already been created" not in str(error):
            raise
