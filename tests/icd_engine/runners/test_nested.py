"""Nestings of tensors: what they hold, and what becomes of their parts."""

from __future__ import annotations

import torch

from icd_engine.runners.nested import layout, leaves, map_parts, map_tensors
from icd_engine.runners.packing import Later


def test_later_lists_count_as_lists():
    inner = [torch.zeros(2), torch.ones(3)]
    whole = (inner, {"step": 3})
    later = (Later(lambda: inner), {"step": 3})
    assert leaves(later) == leaves(whole)
    assert layout(later) == layout(whole)
    doubled, rest = map_tensors(lambda tensor: tensor + tensor, later)
    assert [tensor.tolist() for tensor in doubled] == [[0, 0], [2, 2, 2]]
    assert rest == {"step": 3}


def test_parts_are_those_of_the_outermost():
    assert map_parts(type, ([1], (2, 3), "a")) == (list, tuple, str)
    assert map_parts(type, 5) == 5
