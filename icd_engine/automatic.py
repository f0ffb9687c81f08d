"""Automatic settings: a few candidates decoded together, and the one that changes least of those that
show the target.

Candidates are target rows of one picture. They begin alike, and rows that agree so far run once, so
they form a tree: its rows grow from hop to hop, and the number of network calls does not.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from icd_engine.editing.plan import EditPlan, make_plan
from icd_engine.editing.words import Tokens, differing
from icd_engine.model import Model
from icd_engine.results import Candidate
from icd_engine.runners.contract import DecodeInputs, Prompts, Runner, Tensor
from icd_engine.sampling.noise import normal_noise
from icd_engine.settings import MAX_GUIDANCE
from icd_engine.tasks import Task

# From an edit that is driven, guided beyond the model's own measure and at every hop, to one that is
# held at every hop and, with BLENDS, changes only where the changed words are. They were chosen on
# 138 scenes of the world that no reported figure is of; the first is for shapes, some of which none of
# the others shows.
CANDIDATES: tuple[dict[str, float], ...] = (
    {"cross_replace": 0.0, "self_replace": 0.25, "tau": 1.0, "guidance": 1.75},
    {"cross_replace": 0.2, "self_replace": 0.5},
    {"cross_replace": 0.4, "self_replace": 0.5},
    {"cross_replace": 0.6, "self_replace": 1.0},
    {"cross_replace": 1.0, "self_replace": 1.0},
)
BLENDS = {"cross_replace": 1.0, "self_replace": 1.0}
AGREES = 0.7  # share of the best agreement from which on a candidate shows the target
VARIED = ("cross_replace", "self_replace", "blend", "guidance_scale", "tau")


@dataclass(frozen=True)
class Tree:
    """Which rows run in each of K hops for M candidates.

    first: [K] of the candidate that each row is of, the first of those that share it. rows: [K][M],
    the row of each candidate. parents: [K] of the row of the hop before that each row goes on from;
    those of the first hop are themselves.
    """

    first: list[list[int]]
    rows: list[list[int]]
    parents: list[list[int]]

    @classmethod
    def of(cls, done: Sequence[Sequence[Hashable]]) -> Tree:
        """done: [M][K], what each candidate does in each hop; those that did the same so far share
        a row."""
        first = []
        rows = []
        parents = []
        for k in range(len(done[0])):
            so_far = [tuple(own[: k + 1]) for own in done]
            number = {key: row for row, key in enumerate(dict.fromkeys(so_far))}
            rows.append([number[key] for key in so_far])
            first.append([rows[k].index(row) for row in range(len(number))])
            above = rows[k] if k == 0 else rows[k - 1]
            parents.append([above[i] for i in first[k]])
        return cls(first, rows, parents)


def candidates(model: Model, task: Task) -> tuple[list[Task], Tree]:
    """The task with the settings of every candidate that differs from those before it, and the rows
    that they share; what the caller chose is left as it is."""
    (target,) = task.targets
    own = task.settings
    if own.control in ("none", "switch"):
        alone = replace(task, settings=own.with_values({"auto": False}))
        return [alone], Tree.of([_done(model, alone)])
    words = changed_words(task.source, target)
    tried: list[dict[str, Any]] = [dict(values) for values in CANDIDATES]
    if words is not None:
        tried.append(BLENDS | {"blend": words})
    found: dict[tuple[Hashable, ...], Task] = {}
    for values in tried:
        w = (own.guidance_scale or 0.0) * values.pop("guidance", 1.0)
        values = {"blend": None, "guidance_scale": min(w, MAX_GUIDANCE), **values}
        free = {name: value for name, value in values.items() if name not in task.chosen}
        settings = own.with_values(free | {"auto": False})
        plan = make_plan(task.source, target, settings, len(model.decode_hops))
        one = replace(task, settings=settings, plans=[plan])
        found.setdefault(tuple(_done(model, one)), one)
    return list(found.values()), Tree.of(list(found))


def _done(model: Model, task: Task) -> list[Hashable]:
    """What a candidate does in each hop, as a key."""
    plan: EditPlan = task.plans[0]
    guidance = model.guidance(task.settings)
    arrays = (plan.source_mix, plan.target_gain, plan.share_self)
    blends = plan.blend_source is not None
    return [
        (*(values[k].tobytes() for values in arrays), w, blends) for k, w in enumerate(guidance)
    ]


def shared_rows(
    model: Model, tasks: Sequence[Task], tree: Tree, inputs: DecodeInputs
) -> DecodeInputs:
    """A pass with a target row for every candidate, as a tree of rows. inputs: of the candidates,
    one picture and one target prompt."""
    tensor = model.runner.tensor
    each = [model.guidance(task.settings) for task in tasks]
    sources = 0 if inputs.source is not None else inputs.sources
    index = [tensor(np.array(first, dtype=np.int64)) for first in tree.first]
    last = inputs.sources + len(tree.first[-1])
    prompts = [_cut(own, last) for own in (inputs.prompts, *(inputs.hop_prompts or ()))]
    assert inputs.edits is not None
    return replace(
        inputs,
        latents=inputs.latents[: sources + len(tree.first[0])],
        prompts=prompts[0],
        hop_prompts=prompts[1:] or None,
        guidance=[
            [*row[:sources], *(each[i][k] for i in tree.first[k])]
            for k, row in enumerate(inputs.guidance)
        ],
        edits=[_taken(step, rows) for step, rows in zip(inputs.edits, index, strict=True)],
        blend=inputs.blend
        and [_taken(step, rows) for step, rows in zip(inputs.blend, index, strict=True)],
        parents=[tensor(np.array(parents, dtype=np.int64)) for parents in tree.parents],
    )


def _cut(prompts: Prompts, rows: int) -> Prompts:
    pooled = None if prompts.pooled is None else prompts.pooled[:rows]
    return Prompts(prompts.ids[:rows], prompts.features[:rows], pooled)


def _taken(step: Any, rows: Tensor) -> Any:
    """These rows of every field of an EditStep or a Blend."""
    return type(step)(*(None if field is None else field[rows] for field in step))


def judged(
    model: Model, task: Task, tasks: Sequence[Task], latents: Tensor, source: Tensor
) -> list[Candidate]:
    """The candidates with their agreement and change, in their order; latents [M, 4, h, w] of each,
    source [1, 4, h, w]."""
    runner = model.runner
    agreement = Agreement(model, task.source, task.targets[0], task.size)(latents)
    own = runner.host(latents)
    change = np.abs(np.asarray(own) - np.asarray(runner.host(source))).mean(axis=(1, 2, 3))
    return [
        Candidate(one.settings, float(agreement[i]), float(change[i]), own[i : i + 1])
        for i, one in enumerate(tasks)
    ]


def ranked(found: Sequence[Candidate]) -> list[Candidate]:
    """Best first: those that agree at least AGREES as much as the best one, least change first; then
    the others, by agreement. Where none agrees, all by agreement."""
    best = max(one.agreement for one in found)

    def place(one: Candidate) -> tuple[bool, float]:
        shows = best > 0 and one.agreement >= AGREES * best
        return not shows, one.change if shows else -one.agreement

    return sorted(found, key=place)


class Agreement:
    """How much better the target prompt than the source prompt explains latents.

    It is the difference of the squared noise errors of the decode network, unguided, at its
    second-highest time step, where layout is decided (as in diffusion classifiers, Li et al., arXiv
    2303.16203). size: (width, height).
    """

    def __init__(self, model: Model, source: Tokens, target: Tokens, size: tuple[int, int]):
        self._runner: Runner = model.runner
        self._schedule = model.schedule
        self._hop = model.decode_hops[min(1, len(model.decode_hops) - 1)]
        self._prompts = model.encode_prompts([source, target])
        self._empty = model.empty_prompt()
        self._noise = normal_noise(0, (1, *model.latent_shape(size)[1:]))

    def __call__(self, latents: Tensor) -> np.ndarray:
        """Of latents [N, 4, h, w]: [N], in one network call of 2 N rows."""
        clean = np.asarray(self._runner.host(latents))
        count = len(clean)
        hop = self._hop
        noised = self._schedule.a(hop.t) * clean + self._schedule.sigma(hop.t) * self._noise
        rows = np.concatenate([noised, noised]).astype(np.float32)
        inputs = DecodeInputs(
            latents=self._runner.tensor(rows),
            prompts=self._each(count),
            guidance=[[0.0] * len(rows)],
            empty_prompt=self._empty,
        )
        after = np.asarray(self._runner.host(self._runner.decode(inputs, [hop], None).latents))
        noise = self._schedule.noise(hop, rows, after)
        errors = np.square(noise - self._noise).mean(axis=(1, 2, 3))
        return errors[:count] - errors[count:]

    def _each(self, count: int) -> Prompts:
        """The source prompt `count` times, then the target prompt."""
        rows = [0] * count + [1] * count
        prompts = self._prompts
        pooled = None if prompts.pooled is None else prompts.pooled[rows]
        return Prompts(tuple(prompts.ids[row] for row in rows), prompts.features[rows], pooled)


def changed_words(source: Tokens, target: Tokens) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The words that differ (`differing`), as blend words; None where either prompt has none.

    A word that its prompt has elsewhere unchanged too (an article, say) does not count: it would
    stand for both places.
    """
    found = []
    for prompt, changed in zip((source, target), differing(source, target), strict=True):
        unchanged = {prompt.bare(word.text) for word in prompt.words if word not in changed}
        texts = dict.fromkeys(prompt.bare(word.text) for word in changed)
        found.append(tuple(text for text in texts if text not in unchanged))
    return (found[0], found[1]) if all(found) else None
