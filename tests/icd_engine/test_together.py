"""Edits in shared passes: those that fail are found by halving."""

import os

import numpy as np
import pytest

from icd_engine.engine import Engine
from icd_engine.errors import PromptError
from icd_engine.results import EditRequest, EditResult
from icd_engine.together import edit_each

SOURCE, TARGET = "a cat sits on the mat", "a dog sits on the mat"


def requests(*targets: str) -> list[EditRequest]:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return [EditRequest(pixels, SOURCE, target, {"seed": i}) for i, target in enumerate(targets)]


def test_a_whole_batch_is_one_call(small_engine):
    given = requests(TARGET, TARGET, TARGET)
    expected = [np.asarray(result.image) for result in small_engine.edit_many(given)]
    for result, pixels in zip(edit_each(small_engine, given), expected, strict=True):
        assert np.array_equal(np.asarray(result.image), pixels)


def test_only_the_row_that_fails_alone_is_an_error(small_engine):
    given = requests(TARGET, TARGET, " ", TARGET, TARGET)
    results = edit_each(small_engine, given)
    assert [isinstance(result, EditResult) for result in results] == [True, True, False, True, True]
    assert isinstance(results[2], PromptError)


def test_a_batch_too_large_for_memory_is_halved(monkeypatch, small_engine):
    sizes = []
    real = Engine.edit_many

    def edit_many(self, given, *, size):
        sizes.append(len(given))
        if len(given) > 2:
            raise MemoryError("too much")
        return real(self, given, size=size)

    monkeypatch.setattr(Engine, "edit_many", edit_many)
    results = edit_each(small_engine, requests(*[TARGET] * 5))
    assert all(isinstance(result, EditResult) for result in results)
    assert sizes == [5, 2, 3, 1, 2]


def test_a_row_too_large_for_memory_is_an_error(monkeypatch, small_engine):
    def edit_many(self, given, *, size):
        raise MemoryError("too much")

    monkeypatch.setattr(Engine, "edit_many", edit_many)
    (result,) = edit_each(small_engine, requests(TARGET))
    assert isinstance(result, MemoryError)


def test_a_broken_cuda_context_ends_the_process(monkeypatch, small_engine):
    class AcceleratorError(RuntimeError): ...

    class Ended(Exception): ...

    def edit_many(self, given, *, size):
        raise AcceleratorError("CUDA error: an illegal memory access was encountered")

    def end(code: int):
        raise Ended(code)

    monkeypatch.setattr(Engine, "edit_many", edit_many)
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(Ended):
        edit_each(small_engine, requests(TARGET, TARGET))
