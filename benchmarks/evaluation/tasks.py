"""One edit as a method takes it, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class InstructScales(NamedTuple):
    """InstructPix2Pix's two guidance scales in its paper's notation, where 1 is unguided."""

    text: float
    picture: float


PUBLISHED_SCALES = InstructScales(7.5, 1.5)


@dataclass(frozen=True)
class EditTask:
    """One edit: clean latents [1, 4, h, w], prompts, guidance, and the shares of prompt-to-prompt
    control.

    instruction: what to do, for methods that take instructions; None where there is only the
    target. scales: of those methods.
    """

    latents: Tensor
    source: str
    target: str
    w: float
    cross_replace: float = 0.4
    self_replace: float = 0.5
    seed: int = 0
    instruction: str | None = None
    scales: InstructScales = PUBLISHED_SCALES


class Outcome(NamedTuple):
    """Latents [1, 4, h, w] of the picture as the method keeps it, and of the edit."""

    reconstruction: Tensor
    edited: Tensor
