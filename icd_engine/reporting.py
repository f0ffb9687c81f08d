"""A user's callback and progress, heard between hops: what they give back is checked before it goes
on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from icd_engine.errors import SettingsError, shown
from icd_engine.runners.contract import Runner, StepCallback, Tensor

Progress = Callable[[int], Any]  # called with the number of rows' hops done
ALIKE = ("shape", "dtype", "device", "layout")  # of latents and what takes their place


def reporting(
    runner: Runner, callback: StepCallback | None, progress: Progress | None
) -> StepCallback | None:
    """One callback that tells `progress` of each hop, asks the user's callback and checks what it
    gives back.

    What either raises passes through. SettingsError unless they can be called, and where latents
    are given back that cannot take the place of those that were shown.
    """
    for name, given in {"callback_on_step_end": callback, "progress": progress}.items():
        if given is not None and not callable(given):
            raise SettingsError(f"{name} must be a function, not {shown(given)}")
    if callback is None and progress is None:
        return None

    def report(step: int, t: int, latents: Tensor) -> Tensor | None:
        if progress is not None:
            progress(1)
        replaced = None if callback is None else callback(step, t, latents)
        if replaced is not None:
            _check_replaced(runner, replaced, latents)
        return replaced

    return report


def _check_replaced(runner: Runner, replaced: Any, latents: Tensor) -> None:
    alike = all(getattr(replaced, name, None) == getattr(latents, name, None) for name in ALIKE)
    if not isinstance(replaced, type(latents)) or not alike:
        wanted = (
            f"latents of shape {list(latents.shape)}, {latents.dtype}, on the device it got them on"
        )
        raise SettingsError(f"callback_on_step_end must return None or {wanted}")
    if not np.isfinite(np.asarray(runner.host(replaced))).all():
        raise SettingsError("callback_on_step_end returned latents with NaN or infinite values")
