"""Tasks share passes of the networks, and become results.

A pass has one row a picture while it encodes. While it decodes it has one source row a picture and
one row a target: first all sources, then the targets of the first, of the second and so on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from icd_engine.compositing import finish
from icd_engine.decoding import SourceBranches, decode_inputs
from icd_engine.errors import OutOfMemoryError
from icd_engine.images import to_size
from icd_engine.model import Model, as_pictures
from icd_engine.reporting import Listener
from icd_engine.restrictions import picture_masks
from icd_engine.results import Editor, EditResult, Inversion
from icd_engine.runners.contract import Decoded, SourceBranch, Tensor
from icd_engine.stopwatch import Stopwatch
from icd_engine.tasks import Task

ENCODE_STAGES = ("text", "vae_encode", "encode")
MOST_TARGETS = 16  # target rows in one pass, unless one request alone has more


# --- tasks share passes ---------------------------------------------------------------------------


def in_passes(
    tasks: Sequence[Task], run: Callable[[Sequence[Task]], Sequence[EditResult]]
) -> list[EditResult]:
    """Results in the order of the tasks; those that the model works at one size for, and that are
    all anchored or all not, run together.

    A pass that memory does not hold is tried again with half its rows, and so are those after it.
    """
    results: dict[int, EditResult] = {}
    most = MOST_TARGETS
    for alike in dict.fromkeys(_alike(task) for task in tasks):
        waiting = [i for i, task in enumerate(tasks) if _alike(task) == alike]
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


def _alike(task: Task) -> tuple[tuple[int, int], bool]:
    return task.size, bool(task.settings.anchor)


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
        passed = runner.encode(
            model.noised(latents, start), prompts, model.encode_hops, listener.callback
        )
    at = {0: latents} | {hop.s: own for hop, own in zip(model.encode_hops, passed, strict=True)}
    inversions = [
        Inversion(
            engine=editor,
            # Copies: they must not hold the whole pass
            noised=runner.join([passed[-1][i : i + 1]]),
            source=task.source.text,
            seed=seeds[i],
            size=size,
            picture_size=pictures[i].size,
            picture=pictures[i],
            given_size=task.given_size,
            boundaries=[runner.join([at[hop.s][i : i + 1]]) for hop in model.decode_hops]
            if model.anchors
            else None,
        )
        for i, task in enumerate(tasks)
    ]
    calls = len(model.encode_hops)
    return [
        replace(task, inversion=inversion, calls=calls)
        for task, inversion in zip(tasks, inversions, strict=True)
    ]


# --- down: noise to edits -------------------------------------------------------------------------


def decode(
    model: Model,
    tasks: Sequence[Task],
    branches: SourceBranches,
    listener: Listener,
    watch: Stopwatch,
    output_type: str,
) -> list[EditResult]:
    """Results of encoded tasks, all of one size and all anchored or all not, from one pass of the
    decode network.

    Anchored, the source rows of all hops run in the first call. The source branch of a single
    picture is kept, and its next edit runs target rows alone. A callback may change source rows, so
    with one they run hop by hop, and nothing is kept or taken.
    """
    inversions = [task.inversion for task in tasks if task.inversion is not None]
    anchored = bool(tasks[0].settings.anchor)
    alone = len(tasks) == 1 and not listener.may_change
    branch = branches.get(inversions[0], anchored) if alone else None
    owner = [i for i, task in enumerate(tasks) for _ in task.targets]
    with watch.stage("text_target"):
        inputs = decode_inputs(model, tasks, owner, branch)
    with watch.stage("decode"):
        ahead = anchored and branch is None and not listener.may_change
        keep = branch is None and (alone or any(task.settings.from_words for task in tasks))
        inputs = replace(inputs, keep=keep, ahead=ahead)
        decoded = model.runner.decode(inputs, model.decode_hops, listener.callback)
    if decoded.source is not None and alone:
        branches.put(inversions[0], anchored, decoded.source)
    if branch is not None:
        sources = branch.latents[-1]
    elif ahead and inputs.anchor is not None:
        sources = inputs.anchor.boundaries[-1]
    else:
        sources = decoded.latents[: len(tasks)]
    edited = decoded.latents[-len(owner) :]
    return _results(
        model, tasks, edited, sources, decoded, branch or decoded.source, watch, output_type
    )


# --- out: latents to pictures ---------------------------------------------------------------------


def _results(
    model: Model,
    tasks: Sequence[Task],
    edited: Tensor,
    sources: Tensor,
    decoded: Decoded,
    branch: SourceBranch | None,
    watch: Stopwatch,
    output_type: str,
) -> list[EditResult]:
    """Final latents [T, 4, h, w] and [S, 4, h, w], and what else was decoded, taken apart by task.
    branch: the source branch of the pass, where there is one."""
    runner = model.runner
    ends = np.cumsum([len(task.targets) for task in tasks])
    spans = [
        slice(int(end) - len(task.targets), int(end)) for end, task in zip(ends, tasks, strict=True)
    ]
    with watch.stage("vae_decode"):
        pictures = as_pictures(runner, edited, output_type)
        images = [pictures[span] for span in spans]
        if output_type != "latent":
            sizes = [task.inversion.picture_size for task in tasks if task.inversion is not None]
            images = [finish(*one) for one in zip(images, sizes, strict=True)]
        hop_masks: list[Tensor | None] = [None] * len(tasks)
        masks: list[np.ndarray | None] = [None] * len(tasks)
        if decoded.masks is not None:  # waits: after the VAE is under way
            together = runner.host(runner.join([mask[None] for mask in decoded.masks]))
            hop_masks = [together[:, span] for span in spans]
            shown = None if output_type == "latent" else images
            masks = picture_masks(model, tasks, hop_masks, decoded, branch, shown)
        if output_type != "latent":
            images = [_pasted(*one) for one in zip(images, tasks, masks, strict=True)]
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
        results.append(
            EditResult(
                images=images[i],
                latents=latents[spans[i]],
                settings=settings,
                timings=dict(timings),
                network_calls=task.calls + model.decode_calls(settings),
                inversion=inversion,
                masks=masks[i],
                hop_masks=None if masks[i] is None else hop_masks[i],
                source_latents=source_latents[i : i + 1],
            )
        )
    return results


def _pasted(pictures: Any, task: Task, masks: np.ndarray | None) -> Any:
    """The pictures of one task's targets as they are returned; they have their size."""
    assert task.inversion is not None
    if not task.settings.paste_back:
        return pictures
    feather = task.settings.feather
    assert feather is not None  # settled settings have it
    return finish(pictures, task.inversion.picture_size, task.picture, masks, feather)
