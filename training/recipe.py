"""What a stage trains by: its recipe, and the terms of its loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor


class Part(NamedTuple):
    """A term of a loss; one of weight 0 is only logged."""

    name: str
    loss: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """How long and how fast a stage trains.

    batch: samples of a step, over all processes and accumulated passes. ema: decay of the moving
    average, None for none. alternating: an optimiser step after every part of the loss, as the
    reference does, instead of one after their sum, as the paper's equation has it.
    """

    samples: int
    batch: int
    lr: float
    warmup: int = 100
    cosine: bool = True
    ema: float | None = 0.998
    clip: float = 1.0
    weight_decay: float = 0.0
    seed: int = 0
    accumulate: int = 1
    alternating: bool = False
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    check_every: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "batch", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.batch % self.accumulate:
            raise ValueError(
                f"batch {self.batch} must be a multiple of accumulate {self.accumulate}"
            )

    @property
    def steps(self) -> int:
        return math.ceil(self.samples / self.batch)

    def lr_at(self, step: int) -> float:
        """Linear warm-up, then constant or a cosine down to a hundredth."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if not self.cosine:
            return self.lr
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
