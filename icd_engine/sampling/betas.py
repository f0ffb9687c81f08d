"""How much noise each time step adds, as diffusers' schedulers compute it from their configuration.

Rounded to float32 exactly as they do (torch.linspace, cumulative product): over an inversion the
seventh digit of sigma at the first step grows into the fourth digit of the latents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icd_engine.errors import SettingsError, shown

STEPS = 1000  # of Stable Diffusion, where a scheduler's configuration does not say how many
KINDS = ("scaled_linear", "linear", "squaredcos_cap_v2")
MOST_BETA = 0.999  # diffusers' cap for squaredcos_cap_v2

Betas = NDArray[np.float32]


def betas_of(config: Mapping[str, Any]) -> Betas:
    """Of a diffusers scheduler_config.json, one a time step. SettingsError for what is no noise."""
    steps = config.get("num_train_timesteps", STEPS)
    trained = config.get("trained_betas")
    kind = config.get("beta_schedule")
    if trained is not None:
        betas = _trained(trained, steps)
    elif kind in KINDS:
        try:
            if kind == "squaredcos_cap_v2":
                betas = squared_cosine(steps)
            else:
                roots = kind == "scaled_linear"
                betas = rising(config["beta_start"], config["beta_end"], steps, roots)
        except (KeyError, TypeError, SettingsError) as error:
            raise SettingsError(f"no schedule can be made of it: {error}") from None
    else:
        raise SettingsError(
            f"beta_schedule {shown(kind)} is not supported (only {', '.join(KINDS)})"
        )
    return without_signal_at_the_end(betas) if config.get("rescale_betas_zero_snr") else betas


def cumulated(betas: Betas) -> Betas:
    """alphas_cumprod: the products of 1 - beta up to each time step."""
    # torch's cumprod of float32 adds up in float64 on the CPU
    return np.cumprod(np.float32(1) - betas, dtype=np.float64).astype(np.float32)


def rising(start: float, end: float, steps: int, roots: bool) -> Betas:
    """Betas that rise linearly, or with `roots` their square roots, as of Stable Diffusion."""
    if not 0 < start <= end < 1 or steps < 2:
        raise SettingsError(f"schedule needs 0 < beta_start <= beta_end < 1, not {start}, {end}")
    if roots:
        return _linspace(math.sqrt(start), math.sqrt(end), steps) ** 2
    return _linspace(start, end, steps)


def squared_cosine(steps: int) -> Betas:
    """Betas of alphas_cumprod = cos^2, capped where they would reach 1."""

    def share(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    each = (1 - share((k + 1) / steps) / share(k / steps) for k in range(steps))
    return np.array([min(beta, MOST_BETA) for beta in each], dtype=np.float32)


def without_signal_at_the_end(betas: Betas) -> Betas:
    """Rescaled so that the last time step is noise alone: algorithm 1 of arXiv 2305.08891."""
    roots = np.sqrt(cumulated(betas))
    first = roots[0]
    last = roots[-1]
    if not first > last:
        raise SettingsError("rescale_betas_zero_snr needs betas that add noise")
    squares = ((roots - last) * (first / (first - last))) ** 2
    alphas = np.concatenate([squares[:1], squares[1:] / squares[:-1]])
    return np.float32(1) - alphas


def _linspace(start: float, end: float, steps: int) -> Betas:
    """torch.linspace in float32, which counts from both ends to the middle."""
    first = np.float32(start)
    last = np.float32(end)
    rise = np.float64((last - first) / np.float32(steps - 1))
    k = np.arange(steps)
    return np.where(k < steps // 2, first + rise * k, last - rise * (steps - 1 - k)).astype(
        np.float32
    )


def _trained(values: Any, steps: int) -> Betas:
    if not isinstance(values, list) or len(values) != steps:
        raise SettingsError(
            f"trained_betas must be a list of {steps}, one a time step, not {shown(values)}"
        )
    for value in values:
        # At 1 nothing of the picture is left, as at the end of a rescaled schedule
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) <= 1:
            raise SettingsError(f"trained_betas must be above 0 and at most 1, not {shown(value)}")
    return np.array(values, dtype=np.float32)
