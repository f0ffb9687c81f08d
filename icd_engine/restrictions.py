"""What tasks may change: cells of their latents after each hop, and pixels of their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from icd_engine.masks import by_hop, for_targets, touched
from icd_engine.model import Model
from icd_engine.runners.contract import Blend, SourceBranch, Tensor
from icd_engine.tasks import Task
from icd_engine.word_masks import MOST_POSITIONS, grown, self_attention, word_mask


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


class Seen(NamedTuple):
    """Where one task's source and targets attended to its words."""

    maps: np.ndarray  # [2, targets, h, w]
    attention: np.ndarray | None  # [h w, h w]: the source's self-attention; None: not known


def seen_words(
    model: Model, tasks: Sequence[Task], maps: Tensor | None, branch: SourceBranch | None
) -> list[Seen | None]:
    """What a pass has seen of words, for each task: None where its mask is not made of them.

    maps: [2, T, h, w] of all target rows, None where the network has none. branch: that of the pass,
    None where the runner keeps none.
    """
    seen: list[Seen | None] = []
    first = 0
    for i, task in enumerate(tasks):
        rows = slice(first, first + len(task.targets))
        first = rows.stop
        if maps is None or not task.settings.from_words:
            seen.append(None)
            continue
        own = _floats(model, maps[:, rows])
        seen.append(Seen(own, _source_attention(model, branch, i, len(tasks), own.shape[-2:])))
    return seen


def picture_masks(
    task: Task, hop_masks: Tensor | None, seen: Seen | None, pictures: Any
) -> np.ndarray | None:
    """Where the pictures of a task's targets may change, float32 [targets, H, W]; None where they
    may everywhere. pictures: of the targets, at their own size; None where latents are asked for."""
    settings = task.settings
    by_words = settings.blend is not None or settings.from_words
    if hop_masks is None or not (by_words or settings.mask is not None):
        return None
    assert task.inversion is not None and settings.feather is not None
    size = task.inversion.picture_size
    cells = np.asarray(hop_masks[-1]) if by_words else None
    masks = for_targets(settings.mask, cells, len(task.targets), size)
    if seen is None:
        return masks
    edits = [None] * len(masks) if pictures is None else _arrays(pictures)
    found = (
        word_mask(seen.maps[:, row], seen.attention, task.picture, edit, size)
        for row, edit in enumerate(edits)
    )
    # The ring lies around what was found, so that none of it fades.
    return masks * np.stack([grown(own, settings.feather) for own in found])


def _source_attention(
    model: Model,
    branch: SourceBranch | None,
    source: int,
    sources: int,
    map_size: tuple[int, ...],
) -> np.ndarray | None:
    """The source's self-attention at the level of the word maps, in the last hop, whose latents are
    the cleanest; None where it was not kept, or is too large."""
    bundle = model.bundle
    positions = map_size[0] * map_size[1]
    shared = bundle.blend_downscale >= bundle.share_downscale  # else its K was not kept
    if branch is None or not shared or positions > MOST_POSITIONS:
        return None
    features = [one for one in branch.features[-1] if one.shape[2] == positions]
    # Rows of all hops, hop by hop, where one list serves all: see `runners.onnx_decoding`.
    hops = len(branch.features)
    if hops > 1 and branch.features[-1] is branch.features[0]:
        source += (hops - 1) * sources
    values = [_floats(model, one[source : source + 1])[0] for one in features]
    # Of every block Q and K of self-attention, then Q of text attention
    return self_attention(list(zip(values[::3], values[1::3], strict=True)))


def _floats(model: Model, tensor: Tensor) -> np.ndarray:
    """A tensor as a float32 array, also one of torch's bfloat16, which numpy has not."""
    copy = model.runner.host(tensor)
    return np.asarray(copy.float() if hasattr(copy, "float") else copy, dtype=np.float32)


def _arrays(pictures: Any) -> list[np.ndarray]:
    """Pictures of any output type as [H, W, 3] each."""
    if isinstance(pictures, list | np.ndarray):
        return [np.asarray(one) for one in pictures]
    return list(np.asarray(pictures.permute(0, 2, 3, 1)))
