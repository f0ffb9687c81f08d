"""Time steps in the names of published files, as in `forward_19_259_519_779`: chains that make sense,
and not the dates and versions that names have too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

END = 999  # the last step of the published models' schedule
STARTS = ("0", "19")  # where encoding begins: without noise, and with as much as published
# Dates and times of day have numbers up to 59: shorter hops are none of a few-step model
SHORTEST_HOP = 60
ROLES = ("forward", "reverse")
# Before a number that is none of its own: the 5 of 1.5, the 0 of v0, the day of 2026-11-19
OF_ANOTHER = re.compile(r"([0-9]\.|(?<![A-Za-z])[vV]|[0-9]{4}[_-][0-9]{1,2}[_-])$")


def times_in(name: str, role: str, end: int = END) -> list[int] | None:
    """The longest chain of a role in a file's name without its suffix; None where there is none.

    A forward chain begins at 0 or 19. A reverse one ends at `end`, the schedule's last step. Both
    ascend by hops of a few-step model, and have one kind of separator.
    """
    chains = [
        [int(number) for number in chain]
        for run in _runs(name)
        for chain in _chains(run, role, len(str(end)))
    ]
    return max((c for c in chains if _makes_sense(c, role, end)), key=len, default=None)


def _runs(name: str) -> Iterator[list[str]]:
    """Numbers with one kind of separator between them."""
    for separator in "_-":
        for match in re.finditer(rf"[0-9]+(?:{separator}[0-9]+)+", name):
            numbers = match[0].split(separator)
            yield numbers[1:] if OF_ANOTHER.search(name[: match.start()]) else numbers


def _chains(run: list[str], role: str, digits: int) -> Iterator[list[str]]:
    """The parts of a run that may be a chain of this role, each as far as it goes."""
    for start, first in enumerate(run):
        if (first in STARTS) != (role == "forward"):
            continue
        if role == "reverse" and set(STARTS) & {*run[:start]}:
            continue  # the rest of a forward chain
        chain = [first]
        for number in run[start + 1 :]:
            if not 2 <= len(number) <= digits:  # a version, a year
                break
            chain.append(number)
        yield chain


def _makes_sense(chain: list[int], role: str, end: int) -> bool:
    hops = pairwise(chain if role == "forward" else [0, *chain])
    ends = chain[-1] <= end if role == "forward" else chain[-1] == end
    return len(chain) > 1 and ends and all(t - s >= SHORTEST_HOP for s, t in hops)
