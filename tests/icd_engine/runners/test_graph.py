"""Captures of CUDA graphs, one at a time in a process and none after a failure; what is kept serves
callers on every stream. On fakes of CUDA's calls: `fake_cuda`."""

from __future__ import annotations

import threading

import pytest
import torch

from icd_engine.runners import captures
from icd_engine.runners.graph import Graphs
from icd_engine.runners.stages import Kept
from icd_engine.stopwatch import Stopwatch
from tests.icd_engine.runners.fake_cuda import FakeCuda, FakeStream

DEVICE = torch.device("cuda", 1)


@pytest.fixture
def cuda(monkeypatch) -> FakeCuda:
    monkeypatch.setattr(captures, "FAILED", captures.Failed())
    return FakeCuda(monkeypatch)


def double(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


class Breaks:
    """double(), but not while a graph is captured."""

    def __init__(self, cuda: FakeCuda, error: Exception):
        self._cuda = cuda
        self._error = error
        self.captured = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._cuda.capturing is not None:
            self.captured += 1
            raise self._error
        return 2 * x


def test_times_wait_for_the_last_event_alone(cuda):
    watch = Stopwatch(DEVICE)
    for name in ("encode", "decode"):
        with watch.stage(name):
            pass
    assert list(watch.timings()) == ["encode", "decode", "total"]
    assert [kind for kind, _ in cuda.waits] == ["event"]
    assert list(Stopwatch(DEVICE).timings()) == ["total"]  # nothing to wait for
    assert len(cuda.waits) == 1


def test_captures_and_handing_back_memory_take_turns(cuda):
    """Two models on two devices, and a third thread that is short of memory: any two at once, and the
    fake refuses as CUDA does."""
    failures = []

    def work(call) -> None:
        try:
            for _ in range(5):
                call()
        except RuntimeError as error:
            failures.append(error)

    graphs = [Graphs(torch.device("cuda", i)) for i in range(2)]
    sizes = [iter(range(1, 99)) for _ in graphs]
    calls = [
        lambda own=own, size=size: own.replay("double", double, torch.ones(next(size)))
        for own, size in zip(graphs, sizes, strict=True)
    ]
    threads = [
        threading.Thread(target=work, args=(call,)) for call in (*calls, captures.hand_back_memory)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert not captures.FAILED.cause
    assert [own.captures for own in graphs] == [5, 5]


def test_a_failed_capture_is_told_once_and_never_tried_again(cuda):
    graphs = Graphs(DEVICE)
    graphs.replay("double", double, torch.ones(2))
    breaks = Breaks(cuda, ValueError("a copy to the host"))
    with pytest.warns(UserWarning, match="ValueError: a copy to the host.*compiled") as told:
        first = graphs.replay("breaks", breaks, torch.ones(3))
        again = graphs.replay("breaks", breaks, torch.ones(4))
        other = Graphs(torch.device("cuda", 0)).replay("double", double, torch.ones(5))
    assert len(told) == 1
    assert [x.tolist() for x in (first, again, other)] == [[2.0] * 3, [2.0] * 4, [2.0] * 5]
    assert breaks.captured == 1
    assert graphs.captures == 1  # the one before


def test_memory_that_ends_in_a_capture_is_given_back(cuda):
    """The graphs that were there go, and where the allocator refuses to, that is no second error."""
    graphs = Graphs(DEVICE)
    graphs.replay("double", double, torch.ones(2))
    with pytest.warns(UserWarning, match="CUDA out of memory"):
        breaks = Breaks(cuda, torch.OutOfMemoryError("CUDA out of memory."))
        assert graphs.replay("breaks", breaks, torch.ones(1)).tolist() == [2.0]
    assert cuda.waits[-1] == "empty_cache"
    cuda.capturing = -1  # as torch 2.11 has it for ever
    captures.hand_back_memory()
    captures.FAILED.cause = ""
    with pytest.raises(RuntimeError, match="empty_cache"):
        captures.hand_back_memory()


def test_cleared_graphs_are_captured_into_a_new_pool(cuda):
    graphs = Graphs(DEVICE)
    graphs.clear()
    assert cuda.pools == 2


def test_what_one_stream_computes_another_waits_for(cuda):
    made = []
    kept = Kept(2, lambda keys: made.extend(keys) or [(torch.ones(1), None)], DEVICE)
    kept("a")
    kept("a")
    assert not cuda.waits
    first = cuda.current
    cuda.current = FakeStream(cuda)
    kept("a")
    ((stream, event),) = cuda.waits
    assert stream is cuda.current
    assert event.stream is first
    assert cuda.read_on == [cuda.current]
    assert made == ["a"]
    kept.clear()
    kept("a")
    assert made == ["a", "a"]
