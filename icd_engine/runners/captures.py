"""What all captures of CUDA graphs in a process share: one at a time, nothing beside it that would end
it in an error, and none after one that failed."""

from __future__ import annotations

import threading
import warnings

import torch

# While a graph is captured, waiting for its device or handing cached memory back, by any thread, is
# an error of both. Handing back asks the allocators of all devices, so there is one lock, and not one
# for each device. Tuning waits too, so code is compiled for graphs inside of it.
LOCK = threading.RLock()


class Failed:
    """Whether a capture of this process has failed, and why. torch 2.11 can capture nothing after
    one: its allocator goes on waiting for the end of it."""

    def __init__(self) -> None:
        self.cause = ""

    def note(self, error: BaseException) -> None:
        """Says so, once. What ends a capture hides what went wrong inside: the innermost cause counts."""
        if self.cause:
            return
        while error.__context__ is not None:
            error = error.__context__
        self.cause = f"{type(error).__name__}: {error}"
        warnings.warn(
            f"a CUDA graph could not be captured ({self.cause}): runner 'graph' goes on with compiled "
            "code, more slowly, until this process ends",
            stacklevel=4,
        )


FAILED = Failed()


def hand_back_memory() -> None:
    """Gives memory that torch holds for reuse back to the devices."""
    with LOCK:
        try:
            torch.cuda.empty_cache()
        except RuntimeError:
            if not FAILED.cause:  # after a failure torch 2.11 refuses; the next allocation does it
                raise
