"""Tasks share passes of the networks, and become results.

A pass has one row a picture while it encodes. While it decodes it has one source row a picture and
one row a target: first all sources, then the targets of the first, of the second and so on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from icd_engine.automatic import candidates, judged, ranked, shared_rows
from icd_engine.decoding import SourceBranches, decode_inputs, drafted, owners
from icd_engine.errors import OutOfMemoryError
from icd_engine.model import Model, as_pictures
from icd_engine.reporting import Listener
from icd_engine.restrictions import dressed, picture_masks
from icd_engine.results import Editor, EditResult, Inversion
from icd_engine.runners.contract import Decoded, DecodeInputs, SourceBranch, Tensor
from icd_engine.stopwatch import Stopwatch
from icd_engine.tasks import Task

ENCODE_STAGES = ("text", "vae_encode", "encode", "reconstruct")
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
    keys = [_alike(task, i) for i, task in enumerate(tasks)]
    for key in dict.fromkeys(keys):
        waiting = [i for i, own in enumerate(keys) if own == key]
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


def _alike(task: Task, number: int) -> tuple:
    """What tasks of one pass have in common; one with automatic settings has rows of its own."""
    return task.size, bool(task.settings.anchor), number if task.settings.auto else None


def fitting(targets: Sequence[int], most: int = MOST_TARGETS) -> int:
    """How many tasks, from the first on, have at most `most` targets together; at least one."""
    totals = np.cumsum(targets)
    return max(1, int(np.count_nonzero(totals <= most)))


# --- up: pictures to noise ------------------------------------------------------------------------


def encode(
    editor: Editor,
    tasks: Sequence[Task],
    listener: Listener,
    watch: Stopwatch,
    *,
    drafts: bool = False,
) -> tuple[list[Task], DecodeInputs | None]:
    """The tasks with their inversions, all of one size, from one pass of the encode network; with
    `drafts` also what their decoding takes besides, made while the device still has nothing to do."""
    model = editor.model
    runner = model.runner
    size = tasks[0].size
    pictures = [task.picture for task in tasks if task.picture is not None]
    seeds = [task.settings.seed or 0 for task in tasks]
    pixels, posterior, start = model.vae_inputs(pictures, seeds, size)
    draft = None
    if drafts:
        with watch.stage("text_target"):
            draft = drafted(model, tasks)
    with watch.stage("text"):
        prompts = model.encode_prompts([task.source for task in tasks])
    with watch.stage("vae_encode"):
        latents = runner.to_latents(pixels, posterior)
    with watch.stage("encode"):
        passed = runner.encode(
            model.noised(latents, start), prompts, model.encode_hops, listener.callback
        )
    with watch.stage("reconstruct"):
        detailed = any(task.settings.detail for task in tasks)
        decoded = as_pictures(runner, latents, "pil") if detailed else [None] * len(tasks)
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
            alpha=task.alpha,
            decoded=decoded[i],
            given_size=task.given_size,
            boundaries=[runner.join([at[hop.s][i : i + 1]]) for hop in model.decode_hops]
            if model.anchors
            else None,
            made_with=model.fingerprint(task.source.added),
        )
        for i, task in enumerate(tasks)
    ]
    calls = len(model.encode_hops)
    encoded = [
        replace(task, inversion=inversion, calls=calls)
        for task, inversion in zip(tasks, inversions, strict=True)
    ]
    return encoded, draft


# --- down: noise to edits -------------------------------------------------------------------------


def decode(
    model: Model,
    tasks: Sequence[Task],
    branches: SourceBranches,
    listener: Listener,
    watch: Stopwatch,
    output_type: str,
    draft: DecodeInputs | None = None,
) -> list[EditResult]:
    """Results of encoded tasks, all of one size and all anchored or all not, from one pass of the
    decode network.

    Anchored, the source rows of all hops run in the first call. The source branch of a single
    picture is kept, and its next edit runs target rows alone. A callback may change source rows, so
    with one they run hop by hop, and nothing is kept or taken.
    """
    if tasks[0].settings.auto and not listener.may_change:
        return [_decode_automatic(model, tasks[0], branches, listener, watch, output_type)]
    branch = branches.of(tasks, listener.may_change)
    if draft is None:
        with watch.stage("text_target"):
            draft = drafted(model, tasks)
    with watch.stage("decode"):
        inputs = decode_inputs(model, tasks, branch, draft)
        decoded, sources = _run(model, tasks, inputs, branches, listener)
    edited = decoded.latents[-len(owners(tasks)) :]
    return _results(
        model, tasks, edited, sources, decoded, branch or decoded.source, watch, output_type
    )


def _decode_automatic(
    model: Model,
    task: Task,
    branches: SourceBranches,
    listener: Listener,
    watch: Stopwatch,
    output_type: str,
) -> EditResult:
    """The result of the candidate that `automatic.ranked` puts first."""
    branch = branches.of([task], listener.may_change)
    with watch.stage("text_target"):
        tried, tree = candidates(model, task)
        every = replace(
            task,
            targets=[tokens for one in tried for tokens in one.targets],
            plans=[plan for one in tried for plan in one.plans],
        )
        inputs = decode_inputs(model, [every], branch)
        inputs = shared_rows(model, tried, tree, inputs)
    with watch.stage("decode"):
        decoded, source = _run(model, [task], inputs, branches, listener)
    rows = decoded.latents[-len(tree.first[-1]) :]
    order = []
    best = 0
    if len(tried) > 1:
        with watch.stage("choice"):
            found = judged(model, task, tried, rows[tree.rows[-1]], source)
            order = ranked(found)
        best = found.index(order[0])
    own = [slice(row[best], row[best] + 1) for row in tree.rows]
    chosen = replace(
        decoded,
        masks=decoded.masks and [mask[row] for mask, row in zip(decoded.masks, own, strict=True)],
        maps=None if decoded.maps is None else decoded.maps[:, own[-1]],
    )
    branch = branch or decoded.source
    (result,) = _results(
        model, [tried[best]], rows[own[-1]], source, chosen, branch, watch, output_type
    )
    calls = result.network_calls + bool(order)
    return replace(result, candidates=order, network_calls=calls)


def _run(
    model: Model,
    tasks: Sequence[Task],
    inputs: DecodeInputs,
    branches: SourceBranches,
    listener: Listener,
) -> tuple[Decoded, Tensor]:
    """The pass, and the final latents of its source rows [S, 4, h, w]; keeps the source branch of a
    single picture."""
    first = inputs.source is None and not listener.may_change
    ahead = first and inputs.anchor is not None
    alone = first and len(tasks) == 1
    by_words = any(task.settings.from_words for task in tasks)
    keep = alone or (by_words and inputs.source is None)
    asked = replace(inputs, keep=keep, ahead=ahead)
    decoded = model.runner.decode(asked, model.decode_hops, listener.callback)
    inversion = tasks[0].inversion
    if alone and decoded.source is not None and inversion is not None:
        branches.put(inversion, inputs.anchor is not None, decoded.source)
    if inputs.source is not None:
        return decoded, inputs.source.latents[-1]
    if ahead and inputs.anchor is not None:
        return decoded, inputs.anchor.boundaries[-1]
    return decoded, decoded.latents[: len(tasks)]


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
    counts = [len(task.targets) for task in tasks]
    ends = np.cumsum(counts).tolist()
    spans = [slice(end - own, end) for end, own in zip(ends, counts, strict=True)]
    as_latents = output_type == "latent"
    with watch.stage("vae_decode"):
        pictures = as_pictures(runner, edited, output_type)
        images = [pictures[span] for span in spans]
        if not as_latents:
            images = [
                task.inversion.finished(own, task.settings.detail or 0.0)
                for own, task in zip(images, tasks, strict=True)
                if task.inversion is not None
            ]
        hop_masks: list[Tensor | None] = [None] * len(tasks)
        masks: list[np.ndarray | None] = [None] * len(tasks)
        if decoded.masks is not None:  # waits: after the VAE is under way
            together = runner.host(runner.join([mask[None] for mask in decoded.masks]))
            hop_masks = [together[:, span] for span in spans]
            shown = None if as_latents else images
            masks = picture_masks(model, tasks, hop_masks, decoded, branch, shown)
        if not as_latents:
            images = [dressed(*one) for one in zip(images, tasks, masks, strict=True)]
    latents = runner.host(edited)
    source_latents = runner.host(sources)
    timings = watch.timings()
    results = []
    for i, task in enumerate(tasks):
        inversion = task.inversion
        assert inversion is not None  # they are encoded
        if task.calls:
            inversion.timings.update({name: timings[name] for name in ENCODE_STAGES})
        results.append(
            EditResult(
                images=images[i],
                latents=latents[spans[i]],
                settings=task.settings,
                timings=dict(timings),
                network_calls=task.calls + model.decode_calls(task.settings),
                inversion=inversion,
                masks=masks[i],
                hop_masks=None if masks[i] is None else hop_masks[i],
                source_latents=source_latents[i : i + 1],
            )
        )
    return results
