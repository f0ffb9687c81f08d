"""CUDA's streams, events and captures without a GPU: nothing runs, what is refused there is refused
here, and every wait is written down."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


class FakeEvent:
    def __init__(self, cuda: FakeCuda):
        self._cuda = cuda
        self.stream: FakeStream | None = None

    def record(self, stream: FakeStream) -> None:
        self.stream = stream

    def synchronize(self) -> None:
        self._cuda.waits.append(("event", self))

    def elapsed_time(self, later: FakeEvent) -> float:
        return 1.0


class FakeStream:
    def __init__(self, cuda: FakeCuda):
        self._cuda = cuda

    def wait_stream(self, other: FakeStream) -> None:
        self._cuda.waits.append((self, other))

    def wait_event(self, event: FakeEvent) -> None:
        self._cuda.waits.append((self, event))

    def record_event(self) -> FakeEvent:
        event = FakeEvent(self._cuda)
        event.record(self)
        return event

    def synchronize(self) -> None:
        self._cuda.waits.append(("stream", self))


class FakeCuda:
    """What replaces torch.cuda; `current` is the stream of every caller."""

    def __init__(self, monkeypatch: Any):
        self.waits: list[Any] = []
        self.read_on: list[Any] = []  # streams that tensors are recorded on
        self.pools = 0
        self.current = FakeStream(self)
        self.capturing: int | None = None  # the thread that is
        replaced = {
            "Stream": lambda device: FakeStream(self),
            "Event": lambda enable_timing=False: FakeEvent(self),
            "current_stream": lambda device: self.current,
            "stream": lambda stream: nullcontext(),
            "device": lambda device: nullcontext(),
            "graph_pool_handle": self._pool,
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
            "graph": self._graph,
            "empty_cache": lambda: self._whole_device("empty_cache"),
            "synchronize": lambda device=None: self._whole_device("device"),
        }
        for name, value in replaced.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(
            Tensor, "record_stream", lambda tensor, stream: self.read_on.append(stream)
        )

    def _pool(self) -> int:
        self.pools += 1
        return self.pools

    def _whole_device(self, what: str) -> None:
        if self.capturing is not None:
            raise RuntimeError(f"{what} while a graph is captured")
        self.waits.append(what)

    @contextmanager
    def _graph(self, graph: Any, **options: Any) -> Any:
        self._whole_device("device")
        self._whole_device("empty_cache")
        self.capturing = threading.get_ident()
        time.sleep(0.01)  # so that others have the time to meet it
        try:
            yield
        except BaseException:
            # As torch: what ending the capture says takes the place of what went wrong in it.
            raise RuntimeError("operation failed due to a previous error in capture") from None
        finally:
            self.capturing = None
