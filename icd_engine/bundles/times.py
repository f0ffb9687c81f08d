"""The time steps of published files: what their names say, what is given, and what else is assumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from icd_engine.bundles.names import END, times_in
from icd_engine.errors import BundleError

CHAIN_A = (259, 519, 779, 999)  # as published, on a schedule of 1000 steps
START = 19


def choose_times(
    forward: Path,
    reverse: Path,
    encode_times: Sequence[int] | None,
    decode_times: Sequence[int] | None,
    end: int = END,
) -> tuple[list[int], list[int], list[str]]:
    """(encode times, decode times, notes on what was read from names or assumed); end: the
    schedule's last time step.

    Arguments go over names. Raises BundleError where a name has the other role's time steps, and
    for time steps that do not fit each other.
    """
    notes: list[str] = []
    encode = _told(forward, "forward", encode_times, end, notes)
    decode = _told(reverse, "reverse", decode_times, end, notes)
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


def _told(
    path: Path, role: str, given: Sequence[int] | None, end: int, notes: list[str]
) -> list[int] | None:
    """The time steps that the arguments or a file's name say; `notes` gets what the name says."""
    what = "encode" if role == "forward" else "decode"
    named = times_in(path.stem, role, end)
    if named and role == "forward" and named[-1] == end:
        named = named[:-1]
    if given is not None:
        if named and named != list(given):
            notes.append(f"{what} times given: {list(given)}, the name of {path.name} says {named}")
        return list(given)
    other = "reverse" if role == "forward" else "forward"
    if named is None and times_in(path.stem, other, end):
        raise BundleError(
            f"{path.name} is given as the {role} model, but its name has the other one's time steps "
            f"(--{what}-steps goes over names)"
        )
    if named:
        notes.append(f"{what} times {named} read from the name of {path.name}")
    return named
