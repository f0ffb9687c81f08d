"""What a distillation may be told: its boundaries, how w is drawn, and how much the pair is to keep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from icd_engine.sampling.schedule import CHAIN
from training.losses import GRID
from training.processes import device

_GRID = f"{GRID[0]}, {GRID[1]}, ..., {GRID[-1]}"


@dataclass(frozen=True)
class Chain:
    """The boundaries both networks hop between, ascending, as published: encoding ends where
    decoding starts."""

    encode_times: tuple[int, ...] = CHAIN
    decode_times: tuple[int, ...] = (*CHAIN[1:], GRID[-1])

    def __post_init__(self) -> None:
        for times in (self.encode_times, self.decode_times):
            on_grid = all(t in GRID or (t == 0 and times is self.encode_times) for t in times)
            if not times or list(times) != sorted(set(times)) or not on_grid:
                raise ValueError(
                    f"boundaries must ascend and lie on the grid {_GRID}, not {list(times)}"
                )
        if self.encode_times[-1] >= self.end:
            raise ValueError(
                f"encoding must end at {self.end}, where decoding starts: {list(self.encode_times)}"
            )

    @property
    def end(self) -> int:
        return self.decode_times[-1]


@dataclass(frozen=True)
class Guidance:
    """How w is drawn for a sample: from a list, or evenly up to its largest value; some are
    unguided besides.

    Ramps of dynamic guidance meet every w between; a list is what the published models were trained
    on.
    """

    scales: tuple[float, ...] = (0.0, 7.0, 11.0, 15.0, 19.0)
    even: bool = False
    unguided: float = 0.0

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) < 0:
            raise ValueError(f"scales must be at least 0 and not none, not {list(self.scales)}")

    def draw(self, rng: np.random.Generator, count: int) -> Tensor:
        """w [count] in code notation, float32 on the device."""
        w = rng.uniform(0, max(self.scales), count) if self.even else rng.choice(self.scales, count)
        w = np.where(rng.random(count) < self.unguided, 0.0, w)
        return torch.from_numpy(w.astype(np.float32)).to(device())


@dataclass(frozen=True)
class Preservation:
    """Weights of the two losses that make the pair invertible, and the share of a batch they are
    taken over.

    The paper's weights are 1.5. On a small model strong ones let the two networks collude: the
    round trip gains, the noise they meet at stops being noise (its deviation shrinks) and
    generation breaks.
    """

    forward: float = 1.5
    reverse: float = 1.5
    share: float = 1.0
