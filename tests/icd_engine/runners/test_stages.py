"""What is kept of stages: made together once, the least recently used go first. On CUDA's streams:
test_graph.py."""

from __future__ import annotations

import pytest
import torch

from icd_engine.runners.stages import Kept


class Squares:
    """Squares of keys, and which were asked for together."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, keys: list[int]) -> list[int]:
        self.asked.append(keys)
        return [key * key for key in keys]


@pytest.fixture
def squares() -> Squares:
    return Squares()


def kept(most: int, squares: Squares) -> Kept:
    return Kept(most, squares, torch.device("cpu"))


def test_what_is_missing_is_made_together_and_once(squares):
    table = kept(9, squares)
    assert table.each([3, 1, 3]) == [9, 1, 9]
    assert table.each([1, 2, 3, 4]) == [1, 4, 9, 16]
    assert table(2) == 4
    assert squares.asked == [[3, 1], [2, 4]]
    assert table.made == len(table) == 4


def test_the_least_recently_used_go_first(squares):
    table = kept(2, squares)
    table.each([1, 2])
    table(1)
    table(3)
    assert len(table) == 2
    table.each([1, 3])
    assert squares.asked == [[1, 2], [3]]
    table(2)
    assert squares.asked[-1] == [2]


def test_more_than_is_kept_comes_all_the_same(squares):
    table = kept(2, squares)
    assert table.each([1, 2, 3]) == [1, 4, 9]
    assert len(table) == 2
    table.clear()
    assert len(table) == 0 and table(3) == 9
    assert squares.asked == [[1, 2, 3], [3]]
