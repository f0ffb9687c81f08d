"""Noise schedule and hops: every network call becomes x_s = A x_t + B eps with two numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import Any

import numpy as np

from icd_engine.errors import SettingsError, shown

STEPS = 1000  # of Stable Diffusion, where a scheduler's configuration does not say how many
CHAIN = (
    19,
    259,
    519,
    779,
)  # the published chain A: encoding ends and decoding starts at the last step


@dataclass(frozen=True)
class Hop:
    """One network call at time step t that takes the latents to boundary s: x_s = A x_t + B eps."""

    t: int
    s: int
    A: float
    B: float


@dataclass(frozen=True)
class NoiseSchedule:
    """Cumulative products of (1 - beta), one per time step."""

    alphas_cumprod: tuple[float, ...]

    @classmethod
    def scaled_linear(
        cls, beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = STEPS
    ) -> "NoiseSchedule":
        """The schedule of Stable Diffusion: sqrt(beta) rises linearly over `steps` time steps.

        Rounded to float32 exactly as the published models had it (torch.linspace, squared,
        cumulative product): over an inversion the seventh digit of sigma at the first step grows
        into the fourth digit of the latents.
        """
        if not 0 < beta_start <= beta_end < 1 or steps < 2:
            raise SettingsError(
                f"schedule needs 0 < beta_start <= beta_end < 1, not {beta_start}, {beta_end}"
            )
        first = np.float32(math.sqrt(beta_start))
        last = np.float32(math.sqrt(beta_end))
        rise = np.float64((last - first) / np.float32(steps - 1))
        k = np.arange(steps)
        roots = np.where(k < steps // 2, first + rise * k, last - rise * (steps - 1 - k)).astype(
            np.float32
        )
        products = np.cumprod(np.float32(1) - roots**2, dtype=np.float64)
        return cls(tuple(products.astype(np.float32).tolist()))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "NoiseSchedule":
        """The schedule of a diffusers scheduler_config.json.

        SettingsError unless it is a scaled linear one.
        """
        kind = config.get("beta_schedule")
        if kind != "scaled_linear":
            raise SettingsError(f"beta_schedule {shown(kind)} is not supported")
        steps = config.get("num_train_timesteps", STEPS)
        try:
            return cls.scaled_linear(config["beta_start"], config["beta_end"], steps)
        except (KeyError, TypeError, SettingsError) as error:
            raise SettingsError(f"no schedule can be made of it: {error}") from None

    @property
    def steps(self) -> int:
        """How many time steps there are: 0 to steps - 1."""
        return len(self.alphas_cumprod)

    def a(self, t: int) -> float:
        """a_t = sqrt(alphas_cumprod[t]), the share of the picture at time step t.

        SettingsError if t is unknown.
        """
        return math.sqrt(self.alphas_cumprod[self._known(t)])

    def sigma(self, t: int) -> float:
        """sigma_t = sqrt(1 - alphas_cumprod[t]), the share of the noise.

        SettingsError if t is unknown.
        """
        return math.sqrt(1.0 - self.alphas_cumprod[self._known(t)])

    def hop(self, t: int, s: int) -> Hop:
        """The consistency boundary update x_s = a_s (x_t - sigma_t eps) / a_t + sigma_s eps, up or
        down.

        As a boundary, s = 0 means clean latents (a = 1, sigma = 0), not alphas_cumprod[0].
        SettingsError if t or s is unknown.
        """
        a_s, sigma_s = (1.0, 0.0) if self._known(s) == 0 else (self.a(s), self.sigma(s))
        A = a_s / self.a(t)
        return Hop(int(t), int(s), A, sigma_s - A * self.sigma(t))

    def encode_hops(self, times: Sequence[int] = CHAIN, end: int | None = None) -> tuple[Hop, ...]:
        """Upward hops times[0] -> times[1] -> ... -> end; None is the last step.

        SettingsError if the steps do not rise.
        """
        last = self.steps - 1 if end is None else end
        return tuple(self.hop(t, s) for t, s in pairwise(_rising((*times, last))))

    def decode_hops(self, times: Sequence[int] | None = None) -> tuple[Hop, ...]:
        """Downward hops times[-1] -> ... -> times[0] -> 0; `times` rise here too. None is the
        published chain from the last step.

        SettingsError if they do not rise.
        """
        times = (*CHAIN[1:], self.steps - 1) if times is None else times
        return tuple(self.hop(t, s) for s, t in reversed(list(pairwise(_rising((0, *times))))))

    def _known(self, t: int) -> int:
        if isinstance(t, bool) or not isinstance(t, Integral) or not 0 <= t < self.steps:
            raise SettingsError(f"time step {t!r} is not a whole number in 0..{self.steps - 1}")
        return int(t)


def _rising(times: tuple[int, ...]) -> tuple[int, ...]:
    if len(times) < 2:
        raise SettingsError("time steps are empty")
    if not all(isinstance(t, Integral) for t in times) or any(s <= t for t, s in pairwise(times)):
        raise SettingsError(f"time steps must be whole numbers that rise strictly, not {times}")
    return times
