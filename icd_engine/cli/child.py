"""Commands that are programs of their own: run in a child process, since what they need lies above
the command line."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress

from icd_engine.cli.terminal import print_error
from icd_engine.endings import AND_SIGNAL, interrupted_code
from icd_engine.processes import ROOT, of_module

BAD_INPUT = 1
GRACE = 30.0  # seconds for a child to clean up
# typer's settings of a command whose arguments, --help too, are the child's
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def run_from_checkout(module: str, what: str, arguments: Sequence[str]) -> int:
    """A program of the repository that is no part of the package: its exit code, 1 with an error
    where it is not here.

    what: the program's name for people.
    """
    if not ROOT.joinpath(*module.split("."), "__main__.py").is_file():
        print_error(
            f"{what} run from a checkout of the repository (pip install --editable .): none is here"
        )
        return BAD_INPUT
    return run_module(module, arguments)


def run_module(module: str, arguments: Sequence[str]) -> int:
    """`python -m module arguments`; its exit code. It ends with this process: what interrupts
    this one ends the child first, by SIGTERM."""
    child = subprocess.Popen(**of_module(module, arguments))
    try:
        return _code(child.wait())
    except KeyboardInterrupt as interruption:
        # The child says itself what happened. From a terminal it has the signal already, and it
        # takes one
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
        raise SystemExit(interrupted_code(interruption)) from None
    finally:
        if child.poll() is None:
            child.kill()


def _code(status: int) -> int:
    """As shells have it of a program that a signal has killed."""
    return status if status >= 0 else AND_SIGNAL - status
