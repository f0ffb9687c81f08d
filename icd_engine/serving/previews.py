"""Pictures of an edit under way: after each decode hop, what the latents would be without their noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from icd_engine.engine import Engine
from icd_engine.reporting import Watcher


class Previews(Watcher):
    """Calls show(number, picture) after the last `count` decode hops but the very last, which makes the
    edit itself; of one picture towards one target.

    sources: source rows that run with the target. picture_size: (width, height). Of an automatic edit
    the first candidate is shown, and another one may be chosen. There is no paste-back in previews.
    """

    def __init__(
        self,
        engine: Engine,
        sources: int,
        count: int,
        picture_size: tuple[int, int],
        show: Callable[[int, Image.Image], Any],
    ):
        self._engine = engine
        self._sources = sources
        hops = engine.model.decode_hops
        first = max(0, len(hops) - 1 - count)
        self._hops = {(hop.t, hop.s): hop for hop in hops}
        self._numbers = {hop.t: i - first for i, hop in enumerate(hops[:-1]) if i >= first}
        self._picture_size = picture_size
        self._show = show
        self._before: tuple[int, np.ndarray] | None = None  # time step, latents [1, 4, h, w]

    def watch(self, t: int, latents: Any) -> None:
        """Latents that encoding led to are those that decoding begins with."""
        before = self._before
        hop = None if before is None else self._hops.get((before[0], t))
        first = 0 if hop is None else self._sources
        own = np.asarray(self._engine.runner.host(latents[first : first + 1]))
        self._before = t, own
        if before is None or hop is None or hop.t not in self._numbers:
            return
        schedule = self._engine.model.schedule
        noise = schedule.noise(hop, before[1], own)
        clean = ((own - schedule.sigma(t) * noise) / schedule.a(t)).astype(np.float32)
        (picture,) = self._engine.to_pictures(self._engine.runner.tensor(clean))
        picture = picture.resize(self._picture_size, Image.Resampling.BICUBIC)
        self._show(self._numbers[hop.t], picture)
