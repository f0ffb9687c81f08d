"""What pictures of tasks may change: pixels that a mask or where words are leaves free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from icd_engine.colour import srgb_profile
from icd_engine.compositing import finish
from icd_engine.masks import for_targets
from icd_engine.metadata import DPI
from icd_engine.model import Model
from icd_engine.runners.contract import Decoded, SourceBranch, Tensor
from icd_engine.tasks import Task
from icd_engine.word_masks import MOST_POSITIONS, grown, self_attention, word_mask


def picture_masks(
    model: Model,
    tasks: Sequence[Task],
    hop_masks: Sequence[Tensor | None],
    decoded: Decoded,
    branch: SourceBranch | None,
    pictures: Sequence[Any] | None,
) -> list[np.ndarray | None]:
    """Where the pictures of each task's targets may change, float32 [targets, H, W]; None where they
    may everywhere.

    hop_masks: of each task [K, targets, h, w], on the CPU. branch: that of the pass, None where the
    runner keeps none. pictures: of each task's targets, at their own size; None where latents are
    asked for.
    """
    masks: list[np.ndarray | None] = []
    first = 0
    for i, task in enumerate(tasks):
        rows = slice(first, first + len(task.targets))
        first = rows.stop
        own = _of_cells(task, hop_masks[i])
        if own is not None and task.settings.from_words and decoded.maps is not None:
            maps = _floats(model, decoded.maps[:, rows])
            attention = _source_attention(model, branch, i, len(tasks), maps.shape[-2:])
            edits = None if pictures is None else pictures[i]
            own = own * _of_words(task, maps, attention, edits)
        masks.append(own)
    return masks


def dressed(pictures: Any, task: Task, masks: np.ndarray | None) -> Any:
    """The pictures of one task's targets as they leave: over the original, where that is asked for;
    those of PIL with the source's transparency, unless that is not wanted, its resolution, and the
    profile that they are in."""
    assert task.inversion is not None  # they are encoded
    settings = task.settings
    if settings.paste_back and masks is not None:
        assert settings.feather is not None  # settled settings have it
        size = task.inversion.picture_size
        pictures = finish(pictures, size, task.picture, masks, settings.feather)
    if not isinstance(pictures, list):
        return pictures
    about: dict[Any, Any] = {"icc_profile": srgb_profile()}
    if task.picture is not None and DPI in task.picture.info:
        about[DPI] = task.picture.info[DPI]
    for picture in pictures:
        if task.alpha is not None and settings.keep_alpha:
            picture.putalpha(task.alpha)
        picture.info.update(about)
    return pictures


def _of_cells(task: Task, hop_masks: Tensor | None) -> np.ndarray | None:
    """By the user's mask, and by where blend words have left latents free."""
    settings = task.settings
    by_words = settings.blend is not None or settings.from_words
    if hop_masks is None or not (by_words or settings.mask is not None):
        return None
    assert task.inversion is not None
    cells = np.asarray(hop_masks[-1]) if by_words else None
    return for_targets(settings.mask, cells, len(task.targets), task.inversion.picture_size)


def _of_words(
    task: Task, maps: np.ndarray, attention: np.ndarray | None, pictures: Any
) -> np.ndarray:
    """By where the words are: bool [targets, H, W]. maps: [2, targets, h, w]."""
    assert task.inversion is not None and task.settings.feather is not None
    size = task.inversion.picture_size
    edits = [None] * len(task.targets) if pictures is None else _arrays(pictures)
    found = (
        word_mask(maps[:, row], attention, task.picture, edit, size)
        for row, edit in enumerate(edits)
    )
    # The ring lies around what was found, so that none of it fades.
    return np.stack([grown(own, task.settings.feather) for own in found])


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
    features = [one for one in branch.features[-1] if _shape(one)[2] == positions]
    # Rows of all hops, hop by hop, where one list serves all: see `runners.onnx_decoding`.
    hops = len(branch.features)
    if hops > 1 and branch.features[-1] is branch.features[0]:
        source += (hops - 1) * sources
    values = [_floats(model, one)[source] for one in features]
    # Of every block Q and K of self-attention, then Q of text attention
    return self_attention(list(zip(values[::3], values[1::3], strict=True)))


def _shape(feature: Tensor) -> Sequence[int]:
    """Of a kept feature; onnxruntime's values have a method for it."""
    shape: Any = feature.shape
    if callable(shape):
        shape = shape()
    return tuple(shape)


def _floats(model: Model, tensor: Tensor) -> np.ndarray:
    """A tensor as a float32 array, also one of torch's bfloat16, which numpy has not."""
    copy = model.runner.host(tensor)
    return np.asarray(copy.float() if hasattr(copy, "float") else copy, dtype=np.float32)


def _arrays(pictures: Any) -> list[np.ndarray]:
    """Pictures of any output type as [H, W, 3] each."""
    if isinstance(pictures, list | np.ndarray):
        return [np.asarray(one) for one in pictures]
    return list(np.asarray(pictures.permute(0, 2, 3, 1)))
