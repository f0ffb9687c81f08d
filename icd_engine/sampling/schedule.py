"""Noise schedule and hops: every network call becomes x_s = A x_t + B eps with two numbers.

Of a network that predicts v, eps stands for v, and the two numbers are others.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import Any

from icd_engine.errors import SettingsError, shown
from icd_engine.sampling.betas import STEPS, betas_of, cumulated, rising

PREDICTIONS = ("epsilon", "v_prediction")
CHAIN = (
    19,
    259,
    519,
    779,
)  # the published chain A: encoding ends and decoding starts at the last step


@dataclass(frozen=True)
class Hop:
    """One network call at time step t that takes the latents to boundary s: x_s = A x_t + B eps, eps
    being what the network predicts."""

    t: int
    s: int
    A: float
    B: float


@dataclass(frozen=True)
class NoiseSchedule:
    """Cumulative products of (1 - beta), one per time step, and what networks predict there.

    prediction: "epsilon", the noise, or "v_prediction", v = a_t eps - sigma_t x_0.
    """

    alphas_cumprod: tuple[float, ...]
    prediction: str = "epsilon"

    @classmethod
    def scaled_linear(
        cls, beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = STEPS
    ) -> "NoiseSchedule":
        """The schedule of Stable Diffusion: sqrt(beta) rises linearly over `steps` time steps."""
        betas = rising(beta_start, beta_end, steps, roots=True)
        return cls(tuple(cumulated(betas).tolist()))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "NoiseSchedule":
        """The schedule of a diffusers scheduler_config.json: `betas_of` it and its prediction_type.

        SettingsError naming the field that is not supported.
        """
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in PREDICTIONS:
            raise SettingsError(
                f"prediction_type {shown(prediction)} is not supported "
                f"(only {' and '.join(PREDICTIONS)})"
            )
        return cls(tuple(cumulated(betas_of(config)).tolist()), prediction)

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
        """The consistency boundary update x_s = a_s x_0 + sigma_s eps, up or down, of what a
        network predicts at x_t.

        Of noise, x_0 = (x_t - sigma_t eps) / a_t. Of v, x_0 = a_t x_t - sigma_t v and eps =
        sigma_t x_t + a_t v: another A and B. As a boundary, s = 0 means clean latents (a = 1,
        sigma = 0), not alphas_cumprod[0]. SettingsError if t or s is unknown, or where noise is
        predicted of nothing else.
        """
        a_s, sigma_s = (1.0, 0.0) if self._known(s) == 0 else (self.a(s), self.sigma(s))
        a = self.a(t)
        sigma = self.sigma(t)
        if self.prediction == "v_prediction":
            return Hop(int(t), int(s), a_s * a + sigma_s * sigma, sigma_s * a - a_s * sigma)
        if a == 0:
            raise SettingsError(
                f"time step {t} is noise alone, from which epsilon prediction tells no picture: "
                "rescale_betas_zero_snr needs prediction_type v_prediction"
            )
        A = a_s / a
        return Hop(int(t), int(s), A, sigma_s - A * sigma)

    def noise(self, hop: Hop, before: Any, after: Any) -> Any:
        """eps that a network saw in the arrays `before` a hop, which took them to `after`."""
        predicted = (after - hop.A * before) / hop.B
        if self.prediction == "v_prediction":
            return self.sigma(hop.t) * before + self.a(hop.t) * predicted
        return predicted

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
