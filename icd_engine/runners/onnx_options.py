"""Options that every session of onnxruntime has here: as many threads as the process is told, and
silence."""

from __future__ import annotations

from typing import Any

from icd_engine.threads import compute_threads


def session_options() -> Any:
    """SessionOptions of a new session; what goes wrong in it is raised, and not printed as well.

    Not onnxruntime's pool for all sessions of a process: once it is made, every other session that the
    program makes for itself has to ask for it, too, or fails.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = compute_threads()
    # Hops run one after the other: the threads of a graph that is done are to leave the cores alone
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def make_session(path: str, options: Any, providers: list[Any]) -> Any:
    """An InferenceSession. Where the program has made the pool for all sessions, it takes that."""
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except RuntimeError as error:
        if "use_per_session_threads must be false" not in str(error):
            raise
    options.use_per_session_threads = False
    return onnxruntime.InferenceSession(path, options, providers=providers)
