"""Dynamic guidance w(t) and the embedding of w that guidance-distilled networks take."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icd_engine.errors import SettingsError
from icd_engine.sampling.schedule import STEPS


def dynamic_guidance(
    t: int,
    guidance_scale: float,
    tau: float | tuple[float, float],
    tau_low: float = 0.0,
    steps: int = STEPS,
) -> float:
    """w(t): the full scale up to tau1, 0 from tau2 on, linear in between; one tau is a step
    function.

    Works on t / steps, `steps` those of the schedule, and tests tau1 first, so at tau1 = tau2 = t /
    steps guidance is on. Interval form (figure 2 of the paper): off below tau_low as well.
    `guidance_scale` is w in code notation, 0 = unguided.
    """
    tau1, tau2 = tau if isinstance(tau, (tuple, list)) else (tau, tau)
    share = t / steps
    if share < tau_low:
        return 0.0
    if share <= tau1:
        return float(guidance_scale)
    if share >= tau2:
        return 0.0
    return float(guidance_scale * (tau2 - share) / (tau2 - tau1))


def guidance_embedding(w: ArrayLike, dim: int = 512) -> NDArray[np.float32]:
    """Guidance scales [B] -> sinusoids [B, dim] of 1000 w: [sin, cos] at exp(-ln(10^4) k / (dim/2 -
    1)).

    All in float32, because the networks were trained on embeddings with these roundings. An odd
    `dim` ends in a zero. SettingsError if w is not a finite row of numbers or dim < 4.
    """
    scales = np.atleast_1d(np.asarray(w, dtype=np.float32))
    if scales.ndim != 1 or not np.isfinite(scales).all():
        raise SettingsError(f"guidance scales must be a row of finite numbers, not {w!r}")
    half = dim // 2
    if half < 2:
        raise SettingsError(f"guidance embedding needs at least 4 values, not {dim}")
    rate = np.log(np.float32(10000.0)) / np.float32(half - 1)
    exponents = np.arange(half, dtype=np.float32) * -rate
    # numpy's float32 exp is a unit off in many places, which 1000 w would magnify: round the exact
    # value instead.
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    phases = (np.float32(1000.0) * scales)[:, None] * frequencies[None, :]
    embedding = np.concatenate([np.sin(phases), np.cos(phases)], axis=1)
    return np.pad(embedding, ((0, 0), (0, dim - 2 * half)))
