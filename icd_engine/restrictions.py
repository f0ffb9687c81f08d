"""What tasks may change: cells of their latents after each hop, and pixels of their pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from icd_engine.masks import by_hop, for_targets, touched
from icd_engine.model import Model
from icd_engine.runners.contract import Blend, Tensor
from icd_engine.tasks import Task


def blends_of(model: Model, tasks: Sequence[Task], owner: Sequence[int]) -> list[Blend] | None:
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


def picture_masks(task: Task, hop_masks: Tensor | None) -> np.ndarray | None:
    """Where the pictures of a task's targets may change, None where they may everywhere."""
    settings = task.settings
    if hop_masks is None or (settings.blend is None and settings.mask is None):
        return None
    assert task.inversion is not None
    words = None if settings.blend is None else np.asarray(hop_masks[-1])
    return for_targets(settings.mask, words, len(task.targets), task.inversion.picture_size)
