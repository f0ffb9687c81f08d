"""The losses of the method as free functions (iCD paper, sections 3 and 4; DDIM)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from icd_engine.sampling.schedule import STEPS, NoiseSchedule

Predict = Callable[[Tensor, Tensor], Tensor]  # (x_t [B, ...], t [B] int64) -> eps
Distance = Callable[[Tensor, Tensor], Tensor]  # of a prediction from its target, a mean

GRID_STEP = 20
GRID = tuple(range(GRID_STEP - 1, STEPS, GRID_STEP))  # the 50 DDIM steps 19, 39, ..., 999


class Boundaries:
    """a_t and sigma_t as tables for batches, with the clean picture (a = 1, sigma = 0) at t = 0 as
    a boundary."""

    def __init__(
        self,
        schedule: NoiseSchedule,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.schedule = schedule
        steps = range(schedule.steps)
        self.a = torch.tensor(
            [1.0] + [schedule.a(t) for t in steps[1:]], dtype=dtype, device=device
        )
        self.sigma = torch.tensor(
            [0.0] + [schedule.sigma(t) for t in steps[1:]], dtype=dtype, device=device
        )

    def noised(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = a_t x + sigma_t noise."""
        return _column(self.a[t], x) * x + _column(self.sigma[t], x) * noise

    def hop(self, x: Tensor, eps: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x_s = a_s (x_t - sigma_t eps) / a_t + sigma_s eps: a DDIM step and the consistency
        boundary update alike."""
        ratio = self.a[s] / self.a[t]
        return _column(ratio, x) * x + _column(self.sigma[s] - ratio * self.sigma[t], x) * eps


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))


def denoising_loss(
    eps: Tensor, noise: Tensor, a: Tensor, sigma: Tensor, gamma: float = 5.0, most: float = 20.0
) -> Tensor:
    """Squared noise error, weighted min(1 / a^2, most) min(SNR, gamma) / SNR with SNR = (a /
    sigma)^2.

    1 / a^2 makes it the velocity's error (Salimans & Ho 2022): colours and shapes, decided at high
    noise, count as much as textures. The second factor (min-SNR, Hang et al. 2023) spends less on
    what is nearly clean.
    """
    snr = (a / sigma).square()
    weight = a.square().reciprocal().clamp(max=most) * snr.clamp(max=gamma) / snr
    return ((eps - noise).square().flatten(1).mean(1) * weight).mean()


def pseudo_huber(prediction: Tensor, target: Tensor, c: float = 0.001) -> Tensor:
    """sqrt(d^2 + c^2) - c, mean over everything."""
    return ((prediction - target).square() + c * c).sqrt().sub(c).mean()


def squared(prediction: Tensor, target: Tensor) -> Tensor:
    """d^2, mean over everything."""
    return (prediction - target).square().mean()


DISTANCES: dict[str, Distance] = {"huber": pseudo_huber, "l2": squared}


def guided(conditional: Tensor, unconditional: Tensor, w: Tensor) -> Tensor:
    """Classifier-free guidance in code notation: eps_c + w (eps_c - eps_u), w [B]."""
    return conditional + _column(w, conditional) * (conditional - unconditional)


def decode_boundary(t_next: Tensor, boundaries: Sequence[int]) -> Tensor:
    """The largest decode boundary s <= t'; boundaries as published, 0 belongs to them (259, 519,
    779, 999 -> + 0)."""
    table = torch.tensor(sorted({0, *boundaries}), device=t_next.device)
    return table[torch.searchsorted(table, t_next, right=True) - 1]


def encode_boundary(t_next: Tensor, boundaries: Sequence[int]) -> Tensor:
    """The smallest encode boundary s >= t' among the encode steps after the first, and the end
    (259, 519, 779, 999)."""
    table = torch.tensor(sorted(boundaries), device=t_next.device)
    return table[torch.searchsorted(table, t_next, right=False)]


def reverse_steps(
    rng: np.random.Generator, count: int, start: int = GRID[-1]
) -> tuple[Tensor, Tensor]:
    """t on the grid up to `start` and t' = t - 20, one step nearer to the picture (from 19 to
    0)."""
    index = torch.from_numpy(rng.integers(0, GRID.index(start) + 1, count))
    grid = torch.tensor([0, *GRID])
    return grid[index + 1], grid[index]


def forward_steps(
    rng: np.random.Generator, count: int, start: int = GRID[0], end: int = GRID[-1]
) -> tuple[Tensor, Tensor]:
    """t on the grid from `start` and t' = t + 20, one step nearer to the noise and no further than
    `end`."""
    index = torch.from_numpy(rng.integers(GRID.index(start), GRID.index(end), count))
    grid = torch.tensor(GRID)
    return grid[index], grid[index + 1]


def consistency_loss(
    student: Predict,
    teacher: Predict,
    tables: Boundaries,
    x_t: Tensor,
    t: Tensor,
    t_next: Tensor,
    s: Tensor,
    distance: Distance = pseudo_huber,
) -> Tensor:
    """Multi-boundary consistency distillation, downward and upward alike.

    The student's hop x_t -> s must match its own hop, without gradient, from the point x_t' the
    teacher's DDIM step reaches; where t' = s the target is x_t' itself.
    """
    with torch.no_grad():
        x_next = tables.hop(x_t, teacher(x_t, t), t, t_next)
        jumped = tables.hop(x_next, student(x_next, t_next), t_next, s)
        target = torch.where(_column(t_next == s, x_t), x_next, jumped)
    return distance(tables.hop(x_t, student(x_t, t), t, s), target)


def preservation_loss(
    trained: Predict,
    other: Predict,
    tables: Boundaries,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    end: Tensor,
    target: Tensor,
    distance: Distance = pseudo_huber,
) -> Tensor:
    """Invertibility of one segment: the other network's hop x_t -> s (no gradient), then the
    trained one's s -> end.

    It must arrive at `target`. Usually end = t and target = x, there and back; on the segment next
    to the picture the way up starts at noised latents and the way down ends at clean ones.
    """
    with torch.no_grad():
        x_s = tables.hop(x, other(x, t), t, s)
    return distance(tables.hop(x_s, trained(x_s, s), s, end), target)
