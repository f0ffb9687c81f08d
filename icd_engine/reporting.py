"""Who hears of each hop: a user's callback, whose latents are checked before they are used, and a
progress function, or a watcher, which sees them too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from icd_engine.errors import SettingsError, shown
from icd_engine.runners.contract import Runner, StepCallback, Tensor

Progress = Callable[[int], Any]  # progress(n): n more hops are done (in a search: n more edits)
ALIKE = ("shape", "dtype", "device", "layout")  # of latents and what takes their place


class Watcher(ABC):
    """A progress function that is shown latents too, and cannot change them: edits run as with any
    other. It hears of encode hops and of decode hops."""

    def __call__(self, hops: int) -> None:
        """So many more are done."""
        return

    @abstractmethod
    def watch(self, t: int, latents: Tensor) -> None:
        """The time step that a hop led to and the latents [rows, 4, h, w] there: of one row a picture
        on the way up, and of those that the pass runs on the way down, targets last."""


class Listener:
    """A callback, which sees latents after each hop and may replace them, and a progress
    function, which is told that a hop is done. What either raises passes through.

    SettingsError unless they can be called.
    """

    def __init__(
        self,
        runner: Runner,
        callback: StepCallback | None = None,
        progress: Progress | None = None,
    ):
        for name, given in {"callback_on_step_end": callback, "progress": progress}.items():
            if given is not None and not callable(given):
                raise SettingsError(f"{name} must be a function, not {shown(given)}")
        self._runner = runner
        self._callback = callback
        self._progress = progress

    @property
    def may_change(self) -> bool:
        """Whether latents may become others than the networks made."""
        return self._callback is not None

    @property
    def callback(self) -> StepCallback | None:
        """What a runner calls after each hop; None where nobody listens."""
        return None if self._callback is None and self._progress is None else self._hear

    def without_callback(self) -> Listener:
        """The same for hops that a callback is not shown."""
        return Listener(self._runner, None, self._progress)

    def _hear(self, step: int, t: int, latents: Tensor) -> Tensor | None:
        if self._progress is not None:
            self._progress(1)
        if isinstance(self._progress, Watcher):
            self._progress.watch(t, latents)
        replaced = None if self._callback is None else self._callback(step, t, latents)
        if replaced is not None:
            _check_replaced(self._runner, replaced, latents)
        return replaced


def _check_replaced(runner: Runner, replaced: Any, latents: Tensor) -> None:
    alike = all(getattr(replaced, name, None) == getattr(latents, name, None) for name in ALIKE)
    if not isinstance(replaced, type(latents)) or not alike:
        wanted = (
            f"latents of shape {list(latents.shape)}, {latents.dtype}, on the device it got them on"
        )
        raise SettingsError(f"callback_on_step_end must return None or {wanted}")
    if not np.isfinite(np.asarray(runner.host(replaced))).all():
        raise SettingsError("callback_on_step_end returned latents with NaN or infinite values")
