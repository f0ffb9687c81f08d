"""Milliseconds of the stages of an edit, measured without making a device wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Stages by name: time on the device for CUDA, wall time for the CPU; `total` is wall time on both."""

    def __init__(self, device: torch.device):
        self._device, self._started = device, time.perf_counter()
        self._stages: dict[str, Callable[[], float]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if self._device.type == "cuda":
            stream = torch.cuda.current_stream(self._device)
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record(stream)
            yield
            last.record(stream)
            self._stages[name] = lambda: first.elapsed_time(last)
        else:
            started = time.perf_counter()
            yield
            elapsed = 1000 * (time.perf_counter() - started)
            self._stages[name] = lambda: elapsed

    def timings(self) -> dict[str, float]:
        """All stages so far and the total. Waits for the device."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        total = 1000 * (time.perf_counter() - self._started)
        return {name: round(stage(), 3) for name, stage in self._stages.items()} | {"total": round(total, 3)}
