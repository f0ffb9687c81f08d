"""Rows of a decode batch: plans and masks put together, and the source branches kept for further
edits."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from icd_engine.editing.plan import EditPlan, EditStep
from icd_engine.runners.contract import Blend, SourceBranch, Tensor

if TYPE_CHECKING:
    from icd_engine.results import Inversion

ToTensor = Callable[[np.ndarray], Tensor]  # Runner.tensor
MOST_TARGETS = 16  # target rows in one pass of edit_many; more run in turns
MOST_BRANCHES = 4  # inversions whose source branch is kept; about 170 MB each for SD1.5 in bfloat16


def passes(targets: Sequence[int], most: int = MOST_TARGETS) -> list[slice]:
    """Consecutive requests in groups of at most `most` target rows; one that has more is a group of
    its own."""
    spans = []
    first = 0
    total = 0
    for i, count in enumerate(targets):
        if i > first and total + count > most:
            spans.append(slice(first, i))
            first, total = i, 0
        total += count
    return [*spans, slice(first, len(targets))] if targets else []


def edit_steps(plans: Sequence[EditPlan], owner: Sequence[int], tensor: ToTensor) -> list[EditStep]:
    """The plans of all target rows as tensors per hop; target i belongs to source row owner[i]."""

    def stack(arrays: Sequence[np.ndarray]) -> Tensor:
        return tensor(np.stack(arrays))

    source_row = tensor(np.array(owner, dtype=np.int64))
    nothing = np.zeros(plans[0].target_gain.shape[-1], dtype=np.float32)
    words = [
        stack([nothing if column is None else column for column in columns])
        if any(column is not None for column in columns)
        else None
        for columns in ([p.blend_source for p in plans], [p.blend_target for p in plans])
    ]
    # Steps first, so that each is contiguous: compiled code is chosen by strides too.
    mix, gain, share = (
        tensor(np.stack([getattr(plan, name) for plan in plans], axis=1))
        for name in ("source_mix", "target_gain", "share_self")
    )
    return [EditStep(source_row, *step, *words) for step in zip(mix, gain, share, strict=True)]


def blend(
    plans: Sequence[EditPlan],
    masks: Sequence[np.ndarray | None],
    owner: Sequence[int],
    tensor: ToTensor,
) -> Blend | None:
    """Blend words and user masks [h, w] of all target rows; None where no row has either."""
    active = [plan.blend_source is not None for plan in plans]
    given = [mask for mask in masks if mask is not None]
    if not given and not any(active):
        return None
    user_mask = None
    if given:
        everywhere = np.ones_like(given[0])
        user_mask = tensor(np.stack([everywhere if mask is None else mask for mask in masks]))
    return Blend(tensor(np.array(owner, dtype=np.int64)), tensor(np.array(active)), user_mask)


class SourceBranches:
    """The source branches of the inversions edited last. Thread-safe."""

    def __init__(self, most: int = MOST_BRANCHES):
        self._most = most
        self._lock = threading.Lock()
        self._branches: OrderedDict[Inversion, SourceBranch] = OrderedDict()

    def get(self, inversion: Inversion) -> SourceBranch | None:
        with self._lock:
            branch = self._branches.get(inversion)
            if branch is not None:
                self._branches.move_to_end(inversion)
            return branch

    def clear(self) -> None:
        with self._lock:
            self._branches.clear()

    def put(self, inversion: Inversion, branch: SourceBranch) -> None:
        with self._lock:
            self._branches[inversion] = branch
            while len(self._branches) > self._most:
                self._branches.popitem(last=False)
