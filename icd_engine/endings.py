"""How commands end before they are done: SIGTERM (docker stop, a batch system) and SIGHUP (a closed
terminal) clean up like Ctrl-C, and children end with their parents."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)
AND_SIGNAL = 128  # what shells add to the number of the signal that ended a program
PR_SET_PDEATHSIG = 1  # of Linux


class Ended(KeyboardInterrupt):
    """A signal that ends this process: whatever cleans up after Ctrl-C cleans up after it."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


class Ending:
    """Which signal has ended a block, if one has."""

    number: int | None = None

    @property
    def code(self) -> int | None:
        """The exit code that says so."""
        return None if self.number is None else AND_SIGNAL + self.number

    @property
    def name(self) -> str:
        return "" if self.number is None else signal.Signals(self.number).name


@contextmanager
def ended_by_signals() -> Iterator[Ending]:
    """For the length of a block, the signals that end a program raise `Ended` in it, once: those
    that follow do not disturb the cleaning up, but for a second Ctrl-C, which ends at once.

    Signals that are ignored (nohup) or handled stay so. In other threads than the main one, which
    get no signals, this does nothing.
    """
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return

    process = os.getpid()

    def end(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != process:  # forked: the block is not its own
            signal.signal(number, before[number])
            os.kill(os.getpid(), number)
            return
        ending.number = number
        for other in before:
            signal.signal(other, signal.SIG_DFL if other == signal.SIGINT else signal.SIG_IGN)
        raise Ended(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in before.items() if handler in DEFAULTS}
    try:
        for number in before:
            signal.signal(number, end)
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupted_code(interruption: KeyboardInterrupt) -> int:
    """The exit code of a program that it has ended."""
    number = interruption.number if isinstance(interruption, Ended) else signal.SIGINT
    return AND_SIGNAL + number


def exit_code(program: Callable[[], int]) -> int:
    """What a program returns, or that a signal has ended it."""
    with ended_by_signals() as ending:
        try:
            return program()
        except KeyboardInterrupt as interruption:
            reason = "interrupted" if ending.number in (None, signal.SIGINT) else ending.name
            print(f"error: ended early ({reason})", file=sys.stderr)
            return interrupted_code(interruption)


def ending_with_parent() -> Callable[[], None] | None:
    """What a child process runs before its program, so that it is told to end when its parent
    dies, however that dies. None where the system has no such thing."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before it was asked for
            os._exit(AND_SIGNAL + signal.SIGTERM)

    return prepare
