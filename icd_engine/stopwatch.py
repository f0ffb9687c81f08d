"""Milliseconds of the stages of an edit, measured without making a device wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Stopwatch:
    """Stages by name: time on the device where it works asynchronously (a torch.device of type
    cuda), else wall time; `total` is always wall time."""

    def __init__(self, device: Any):
        self._cuda = None
        if getattr(device, "type", None) == "cuda":
            import torch

            self._cuda = torch.cuda
            self._device = device
        self._last: Any = None  # the event that was recorded last
        self._started = time.perf_counter()
        self._stages: dict[str, Callable[[], float]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if self._cuda is not None:
            stream = self._cuda.current_stream(self._device)
            first, last = (self._cuda.Event(enable_timing=True) for _ in range(2))
            first.record(stream)
            yield
            last.record(stream)
            self._last = last
            self._stages[name] = lambda: first.elapsed_time(last)
        else:
            started = time.perf_counter()
            yield
            elapsed = 1000 * (time.perf_counter() - started)
            self._stages[name] = lambda: elapsed

    def timings(self) -> dict[str, float]:
        """All stages so far and the total. Waits for the last of them, and not for the whole device:
        others may be at work there, and a graph that another thread captures would fail."""
        if self._last is not None:
            self._last.synchronize()
        total = 1000 * (time.perf_counter() - self._started)
        return {name: round(stage(), 3) for name, stage in self._stages.items()} | {
            "total": round(total, 3)
        }
