"""What a pass of the decode network takes for tasks: rows, prompts, guidance, plans, blending and the
encode trajectory; and the source branches that it leaves.

There is one source row a picture and one row a target: first all sources, then the targets of the
first, of the second and so on.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from icd_engine.editing.plan import edit_steps, make_plan
from icd_engine.editing.words import Tokens
from icd_engine.masks import by_hop, touched
from icd_engine.model import Model
from icd_engine.results import Inversion
from icd_engine.runners.contract import (
    Anchor,
    Blend,
    DecodeInputs,
    Prompts,
    SourceBranch,
)
from icd_engine.settings import EditSettings
from icd_engine.tasks import Task

MOST_BRANCHES = 4  # inversions whose source branch is kept; about 170 MB each for SD1.5 in bfloat16


def drafted(model: Model, tasks: Sequence[Task]) -> DecodeInputs:
    """What a pass of the decode network takes and encoding does not make: prompts, plans and masks,
    which can be on their way before the pictures are encoded. Latents and guidance are left out."""
    runner = model.runner
    owner = owners(tasks)
    targets = [tokens for task in tasks for tokens in task.targets]
    plans = [plan for task in tasks for plan in task.plans]
    anchor = None
    if tasks[0].settings.anchor:
        share = np.array([task.settings.anchor for task in tasks], dtype=np.float32)
        anchor = Anchor([], runner.tensor(share))
    return DecodeInputs(
        latents=None,
        edits=edit_steps(plans, owner, runner.tensor),
        blend=_blends(model, tasks, owner),
        anchor=anchor,
        prompts=model.encode_prompts([*(task.source for task in tasks), *targets]),
        guidance=[],
        empty_prompt=model.empty_prompt(),
        hop_prompts=_hop_prompts(model, tasks, owner),
    )


def decode_inputs(
    model: Model,
    tasks: Sequence[Task],
    branch: SourceBranch | None,
    draft: DecodeInputs | None = None,
) -> DecodeInputs:
    """What a pass of the decode network takes; draft: of the same tasks, where it is made."""
    draft = draft or drafted(model, tasks)
    runner = model.runner
    owner = owners(tasks)
    inversions = [task.inversion for task in tasks if task.inversion is not None]
    rows = [inversions[i].noised for i in owner]
    if branch is None:
        rows = [inversion.noised for inversion in inversions] + rows
    anchor = draft.anchor
    if anchor is not None:
        passed = [inversion.boundaries or [] for inversion in inversions]
        boundaries = [
            own[0] if len(own) == 1 else runner.join(own) for own in zip(*passed, strict=True)
        ]
        anchor = anchor._replace(boundaries=boundaries)
    return replace(
        draft,
        latents=runner.join(rows),
        guidance=_guidance(model, tasks, owner, sources=branch is None),
        source=branch,
        anchor=anchor,
    )


def owners(tasks: Sequence[Task]) -> list[int]:
    """The task of every target row."""
    return [i for i, task in enumerate(tasks) for _ in task.targets]


def _guidance(
    model: Model, tasks: Sequence[Task], owner: Sequence[int], sources: bool
) -> list[list[float]]:
    """w(t) of every hop and row; source rows, where they run, are unguided."""
    unguided = [0.0] * (len(tasks) if sources else 0)
    each = [model.guidance(task.settings) for task in tasks]
    return [unguided + [each[i][k] for i in owner] for k in range(len(model.decode_hops))]


def _hop_prompts(model: Model, tasks: Sequence[Task], owner: Sequence[int]) -> list[Prompts] | None:
    """The prompts of every hop where targets with control "switch" begin with the source's; None
    without any."""
    if not any(task.settings.control == "switch" for task in tasks):
        return None
    targets = [tokens for task in tasks for tokens in task.targets]

    def seen(t: int, row: int) -> Tokens:
        task = tasks[owner[row]]
        tau = task.settings.tau
        low = tau[0] if isinstance(tau, tuple) else tau
        assert low is not None  # settled settings have it
        switched = task.settings.control == "switch" and t > model.steps * low
        return task.source if switched else targets[row]

    sources = [task.source for task in tasks]
    hops = ([seen(hop.t, row) for row in range(len(targets))] for hop in model.decode_hops)
    return [model.encode_prompts([*sources, *row]) for row in hops]


def _blends(model: Model, tasks: Sequence[Task], owner: Sequence[int]) -> list[Blend] | None:
    """Blend words and user masks of all target rows, for every hop; None where no row has either.
    owner: the task of every row."""
    tensor = model.runner.tensor
    hops = len(model.decode_hops)
    plans = [plan for task in tasks for plan in task.plans]
    words = np.array([plan.blend_source is not None for plan in plans])
    given = [task.settings.mask for task in tasks]
    if all(mask is None for mask in given) and not words.any():
        return None
    blend = Blend(tensor(np.array(owner, dtype=np.int64)), tensor(words))
    if all(mask is None for mask in given):
        return [blend] * hops
    _, _, height, width = model.latent_shape(tasks[0].size)
    everywhere = np.ones((hops, height, width), dtype=np.float32)
    free = [
        everywhere if mask is None else by_hop(touched(mask, (width, height)), hops)
        for mask in given
    ]
    rows = np.stack([free[i] for i in owner], axis=1)  # hops first, so that each is contiguous
    return [blend._replace(user_mask=tensor(own)) for own in rows]


# --- source branches of kept inversions ----------------------------------------------------------


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

    def of(self, tasks: Sequence[Task], may_change: bool) -> SourceBranch | None:
        """That of a single picture, where it is kept and may be taken: not where a callback may
        change source rows."""
        inversion = tasks[0].inversion
        if len(tasks) > 1 or may_change or inversion is None:
            return None
        return self.get(inversion, bool(tasks[0].settings.anchor))

    def clear(self) -> None:
        with self._lock:
            self._branches.clear()

    def put(self, inversion: Inversion, anchored: bool, branch: SourceBranch) -> None:
        with self._lock:
            self._branches[inversion, anchored] = branch
            while len(self._branches) > self._most:
                self._branches.popitem(last=False)


def prepare(model: Model, task: Task, branches: SourceBranches) -> bool:
    """Runs the source rows of an encoded picture, of all decode hops in one call, so that edits of
    it run target rows alone; True where they had not run yet. A model that is not anchored leaves
    that to the first edit."""
    inversion = task.inversion
    if inversion is None or inversion.boundaries is None or branches.get(inversion, True):
        return False
    alone = _towards_itself(model, task)
    inputs = decode_inputs(model, [alone], None)
    decoded = model.runner.decode(
        replace(inputs, keep=True, ahead=True, only_source=True), model.decode_hops, None
    )
    if decoded.source is not None:  # else the runner keeps none
        branches.put(inversion, True, decoded.source)
    return decoded.source is not None


def _towards_itself(model: Model, task: Task) -> Task:
    """The task with its source prompt as the target: a target row that costs one call and lets
    programs and graphs of edits serve."""
    settings = EditSettings(control="none", anchor=1.0).resolve(model.default_settings)
    plan = make_plan(task.source, task.source, settings, len(model.decode_hops))
    return replace(task, settings=settings, targets=[task.source], plans=[plan])
