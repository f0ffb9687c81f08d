"""The time steps of published files: what their names say, what is given, and what else is assumed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from icd_engine.bundles.sources import FORWARD_NAME, REVERSE_NAME
from icd_engine.errors import BundleError

CHAIN_A = (259, 519, 779, 999)  # as published, on a schedule of 1000 steps
START = 19


def choose_times(
    forward: Path,
    reverse: Path,
    encode_times: Sequence[int] | None,
    decode_times: Sequence[int] | None,
    end: int = CHAIN_A[-1],
) -> tuple[list[int], list[int], list[str]]:
    """(encode times, decode times, notes on what was assumed); end: the schedule's last time step.

    Raises BundleError where names and arguments differ.
    """
    encode = _agreed(forward, "forward", (FORWARD_NAME, REVERSE_NAME), encode_times, end)
    decode = _agreed(reverse, "reverse", (REVERSE_NAME, FORWARD_NAME), decode_times, end)
    notes: list[str] = []
    if decode is None:
        decode = [*CHAIN_A] if encode is None else [*encode[1:], end]
        notes.append(
            f"decode times assumed: {decode}, "
            + ("chain A" if encode is None else "from the encode times")
        )
    if encode is None:
        encode = [START, *decode[:-1]]
        notes.append(f"encode times assumed: {encode}, from the decode times")
    for name, times in (("encode", encode), ("decode", decode)):
        if not times or sorted(set(times)) != times or times[0] < 0:
            raise BundleError(f"{name} times must ascend, not {times}")
    if encode[-1] >= decode[-1]:
        raise BundleError(
            f"encode times {encode} must end below {decode[-1]}, where decoding starts"
        )
    return encode, decode, notes


def _agreed(
    path: Path,
    role: str,
    patterns: tuple[re.Pattern[str], re.Pattern[str]],
    given: Sequence[int] | None,
    end: int,
) -> list[int] | None:
    """The time steps that a file's name or the arguments say; patterns: of its own role's names,
    and of the other's."""
    own, other = patterns
    match = own.search(path.stem)
    if match is None and other.search(path.stem):
        raise BundleError(
            f"{path.name} is given as the {role} model, but its name has the other one's time steps"
        )
    named = [int(t) for t in re.split("[_-]", match[0])] if match else None
    if named and role == "forward" and named[-1] == end:
        named = named[:-1]
    if named and given is not None and named != list(given):
        raise BundleError(f"{path.name} says time steps {named}, but {list(given)} were asked for")
    return named or (None if given is None else list(given))
