"""Noise schedule and hops: every network call becomes x_s = A x_t + B eps with two numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral

import numpy as np

from icd_engine.errors import SettingsError


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
        cls, beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000
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

    def encode_hops(
        self, times: Sequence[int] = (19, 259, 519, 779), end: int = 999
    ) -> tuple[Hop, ...]:
        """Upward hops times[0] -> times[1] -> ... -> end.

        SettingsError if the steps do not rise.
        """
        return tuple(self.hop(t, s) for t, s in pairwise(_rising((*times, end))))

    def decode_hops(self, times: Sequence[int] = (259, 519, 779, 999)) -> tuple[Hop, ...]:
        """Downward hops times[-1] -> ... -> times[0] -> 0; `times` rise here too.

        SettingsError if they do not.
        """
        return tuple(self.hop(t, s) for s, t in reversed(list(pairwise(_rising((0, *times))))))

    def _known(self, t: int) -> int:
        if (
            isinstance(t, bool)
            or not isinstance(t, Integral)
            or not 0 <= t < len(self.alphas_cumprod)
        ):
            raise SettingsError(
                f"time step {t!r} is not a whole number in 0..{len(self.alphas_cumprod) - 1}"
            )
        return int(t)


def _rising(times: tuple[int, ...]) -> tuple[int, ...]:
    if len(times) < 2:
        raise SettingsError("time steps are empty")
    if not all(isinstance(t, Integral) for t in times) or any(s <= t for t, s in pairwise(times)):
        raise SettingsError(f"time steps must be whole numbers that rise strictly, not {times}")
    return times
