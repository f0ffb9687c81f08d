"""Source branches of kept inversions: with one, an edit runs target rows alone."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace

from icd_engine.decoding import decode_inputs
from icd_engine.editing.plan import make_plan
from icd_engine.model import Model
from icd_engine.results import Inversion
from icd_engine.runners.contract import SourceBranch
from icd_engine.settings import EditSettings
from icd_engine.tasks import Task

MOST_BRANCHES = 4  # inversions whose source branch is kept; about 170 MB each for SD1.5 in bfloat16


class SourceBranches:
    """The source branches of the inversions edited last, anchored and not. Thread-safe."""

    def __init__(self, most: int = MOST_BRANCHES):
        self._most = most
        self._lock = threading.Lock()
        self._branches: OrderedDict[tuple[Inversion, bool], SourceBranch] = OrderedDict()

    def get(self, inversion: Inversion, anchored: bool) -> SourceBranch | None:
        with self._lock:
            branch = self._branches.get((inversion, anchored))
            if branch is not None:
                self._branches.move_to_end((inversion, anchored))
            return branch

    def clear(self) -> None:
        with self._lock:
            self._branches.clear()

    def put(self, inversion: Inversion, anchored: bool, branch: SourceBranch) -> None:
        with self._lock:
            self._branches[inversion, anchored] = branch
            while len(self._branches) > self._most:
                self._branches.popitem(last=False)


def prepare(model: Model, task: Task, branches: SourceBranches) -> None:
    """Runs the source rows of an encoded picture, of all decode hops in one call, so that edits of
    it run target rows alone. A model that is not anchored leaves that to the first edit."""
    inversion = task.inversion
    if inversion is None or inversion.boundaries is None:
        return
    alone = _towards_itself(model, task)
    inputs = decode_inputs(model, [alone], [0], None)
    decoded = model.runner.decode(
        replace(inputs, keep=True, ahead=True, only_source=True), model.decode_hops, None
    )
    assert decoded.source is not None
    branches.put(inversion, True, decoded.source)


def _towards_itself(model: Model, task: Task) -> Task:
    """The task with its source prompt as the target: a target row that costs one call and lets
    programs and graphs of edits serve."""
    settings = EditSettings(control="none", anchor=1.0).resolve(model.default_settings)
    plan = make_plan(task.source, task.source, settings, len(model.decode_hops))
    return replace(task, settings=settings, targets=[task.source], plans=[plan])
