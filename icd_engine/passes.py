"""Tasks share passes of the networks, and become results.

A pass has one row a picture while it encodes. While it decodes it has one source row a picture and
one row a target: first all sources, then the targets of the first, of the second and so on.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from icd_engine.compositing import finish
from icd_engine.editing.plan import edit_steps
from icd_engine.editing.words import Tokens
from icd_engine.errors import OutOfMemoryError
from icd_engine.images import to_size
from icd_engine.model import Model, as_pictures
from icd_engine.reporting import Listener
from icd_engine.results import Editor, EditResult, Inversion
from icd_engine.runners.contract import Blend, DecodeInputs, Prompts, SourceBranch, Tensor
from icd_engine.stopwatch import Stopwatch
from icd_engine.tasks import Task

ENCODE_STAGES = ("text", "vae_encode", "encode")
MOST_TARGETS = 16  # target rows in one pass, unless one request alone has more
MOST_BRANCHES = 4  # inversions whose source branch is kept; about 170 MB each for SD1.5 in bfloat16


# --- tasks share passes ---------------------------------------------------------------------------


def in_passes(
    tasks: Sequence[Task], run: Callable[[Sequence[Task]], Sequence[EditResult]]
) -> list[EditResult]:
    """Results in the order of the tasks; those that the model works at one size for run together.

    A pass that memory does not hold is tried again with half its rows, and so are those after it.
    """
    results: dict[int, EditResult] = {}
    most = MOST_TARGETS
    for size in dict.fromkeys(task.size for task in tasks):
        waiting = [i for i, task in enumerate(tasks) if task.size == size]
        while waiting:
            together = waiting[: fitting([len(tasks[i].targets) for i in waiting], most)]
            try:
                done = run([tasks[i] for i in together])
            except OutOfMemoryError as error:
                if len(together) == 1:
                    raise
                most = sum(len(tasks[i].targets) for i in together) // 2
                warnings.warn(
                    f"{error}; going on in passes of at most {most} target rows", stacklevel=3
                )
                continue
            results.update(zip(together, done, strict=True))
            waiting = waiting[len(together) :]
    return [results[i] for i in range(len(tasks))]


def fitting(targets: Sequence[int], most: int = MOST_TARGETS) -> int:
    """How many tasks, from the first on, have at most `most` targets together; at least one."""
    totals = np.cumsum(targets)
    return max(1, int(np.count_nonzero(totals <= most)))


# --- up: pictures to noise ------------------------------------------------------------------------


def encode(
    editor: Editor, tasks: Sequence[Task], listener: Listener, watch: Stopwatch
) -> list[Task]:
    """The tasks with their inversions, all of one size, from one pass of the encode network."""
    model = editor.model
    runner = model.runner
    size = tasks[0].size
    pictures = [task.picture for task in tasks if task.picture is not None]
    seeds = [task.settings.seed or 0 for task in tasks]
    with watch.stage("text"):
        prompts = model.encode_prompts([task.source for task in tasks])
    with watch.stage("vae_encode"):
        posterior, start = model.noise(seeds, size)
        pixels = np.concatenate([to_size(picture, size) for picture in pictures])
        latents = runner.to_latents(runner.tensor(pixels), posterior)
    with watch.stage("encode"):
        noised = runner.encode(
            model.noised(latents, start), prompts, model.encode_hops, listener.callback
        )
    inversions = [
        Inversion(
            engine=editor,
            noised=runner.join([noised[i : i + 1]]),  # a copy: it must not hold the whole pass
            source=task.source.text,
            seed=seeds[i],
            size=size,
            picture_size=pictures[i].size,
            picture=pictures[i],
        )
        for i, task in enumerate(tasks)
    ]
    calls = len(model.encode_hops)
    return [
        replace(task, inversion=inversion, calls=calls)
        for task, inversion in zip(tasks, inversions, strict=True)
    ]


# --- down: noise to edits -------------------------------------------------------------------------


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


def decode(
    model: Model,
    tasks: Sequence[Task],
    branches: SourceBranches,
    listener: Listener,
    watch: Stopwatch,
    output_type: str,
) -> list[EditResult]:
    """Results of encoded tasks, all of one size, from one pass of the decode network.

    The source branch of a single picture is kept, and its next edit runs target rows alone. A
    callback may change source rows, so with one nothing is kept or taken.
    """
    inversions = [task.inversion for task in tasks if task.inversion is not None]
    alone = len(tasks) == 1 and not listener.may_change
    branch = branches.get(inversions[0]) if alone else None
    owner = [i for i, task in enumerate(tasks) for _ in task.targets]
    with watch.stage("text_target"):
        sources = [task.source for task in tasks]
        targets = [tokens for task in tasks for tokens in task.targets]
        prompts = model.encode_prompts([*sources, *targets])
        hop_prompts = _hop_prompts(model, tasks, owner)
    with watch.stage("decode"):
        rows = [inversions[i].noised for i in owner]
        if branch is None:
            rows = [inversion.noised for inversion in inversions] + rows
        inputs = DecodeInputs(
            latents=model.runner.join(rows),
            prompts=prompts,
            guidance=_guidance(model, tasks, owner, sources=branch is None),
            edits=edit_steps(
                [plan for task in tasks for plan in task.plans], owner, model.runner.tensor
            ),
            blend=_blend(tasks, owner, model.runner.tensor),
            empty_prompt=model.empty_prompt(),
            source=branch,
            keep=alone and branch is None,
            hop_prompts=hop_prompts,
        )
        decoded = model.runner.decode(inputs, model.decode_hops, listener.callback)
    if decoded.source is not None:
        branches.put(inversions[0], decoded.source)
    if branch is None:
        sources_done, edited = decoded.latents[: len(tasks)], decoded.latents[len(tasks) :]
    else:
        sources_done, edited = branch.latents[-1], decoded.latents
    return _results(model, tasks, edited, sources_done, decoded.masks, watch, output_type)


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


def _blend(
    tasks: Sequence[Task], owner: Sequence[int], tensor: Callable[[np.ndarray], Tensor]
) -> Blend | None:
    """Blend words and user masks [h, w] of all target rows; None where no row has either."""
    active = [plan.blend_source is not None for task in tasks for plan in task.plans]
    masks = [tasks[i].settings.mask for i in owner]
    given = [mask for mask in masks if mask is not None]
    if not given and not any(active):
        return None
    user_mask = None
    if given:
        everywhere = np.ones_like(given[0])
        user_mask = tensor(np.stack([everywhere if mask is None else mask for mask in masks]))
    return Blend(tensor(np.array(owner, dtype=np.int64)), tensor(np.array(active)), user_mask)


# --- out: latents to pictures ---------------------------------------------------------------------


def _results(
    model: Model,
    tasks: Sequence[Task],
    edited: Tensor,
    sources: Tensor,
    masks: Tensor | None,
    watch: Stopwatch,
    output_type: str,
) -> list[EditResult]:
    """Final latents [T, 4, h, w] and [S, 4, h, w], and masks [K, T, h, w], taken apart by task."""
    runner = model.runner
    ends = np.cumsum([len(task.targets) for task in tasks])
    spans = [
        slice(int(end) - len(task.targets), int(end)) for end, task in zip(ends, tasks, strict=True)
    ]
    with watch.stage("vae_decode"):
        pictures = as_pictures(runner, edited, output_type)
        if masks is not None:
            masks = runner.host(masks)  # waits: after the VAE is under way
        own_masks = [None if masks is None else masks[:, span] for span in spans]
        images = [pictures[span] for span in spans]
        if output_type != "latent":
            images = [_finished(*one) for one in zip(images, tasks, own_masks, strict=True)]
    latents = runner.host(edited)
    source_latents = runner.host(sources)
    timings = watch.timings()
    results = []
    for i, task in enumerate(tasks):
        settings = task.settings
        inversion = task.inversion
        assert inversion is not None  # they are encoded
        if task.calls:
            inversion.timings.update({name: timings[name] for name in ENCODE_STAGES})
        restricted = settings.blend is not None or settings.mask is not None
        results.append(
            EditResult(
                images=images[i],
                latents=latents[spans[i]],
                settings=settings,
                timings=dict(timings),
                network_calls=task.calls + model.decode_calls(settings),
                inversion=inversion,
                masks=own_masks[i] if restricted else None,
                source_latents=source_latents[i : i + 1],
            )
        )
    return results


def _finished(pictures: Any, task: Task, masks: Tensor | None) -> Any:
    """The pictures of one task's targets as they are returned."""
    assert task.inversion is not None
    size = task.inversion.picture_size
    if not task.settings.paste_back or masks is None:
        return finish(pictures, size)
    return finish(pictures, size, task.picture, list(np.asarray(masks[-1])))
