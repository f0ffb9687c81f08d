"""The one loop over hops, used up and down and by every runner; it knows no framework."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from icd_engine.sampling.schedule import Hop

Latents = TypeVar("Latents")


def run_trajectory(
    latents: Latents,
    hops: Sequence[Hop],
    step: Callable[[int, Hop, Latents], Latents],
    callback: Callable[[int, int, Latents], Latents | None] | None = None,
) -> list[Latents]:
    """Takes latents through all hops, step(k, hop, latents) -> latents, and returns them as they are
    after each.

    After each hop callback(k, hop.s, latents) may return other latents to go on with, or None.
    Whatever step or callback raises passes through.
    """
    passed = []
    for k, hop in enumerate(hops):
        latents = step(k, hop, latents)
        if callback is not None:
            replaced = callback(k, hop.s, latents)
            latents = latents if replaced is None else replaced
        passed.append(latents)
    return passed
