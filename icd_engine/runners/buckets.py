"""Fixed batch sizes: decode rows filled up, so that compiled code is reused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from icd_engine.editing.plan import EditStep
from icd_engine.runners.contract import (
    Anchor,
    Blend,
    Decoded,
    DecodeInputs,
    Prompts,
    StepCallback,
)
from icd_engine.runners.filling import filled_inputs

SIZES = (1, 2, 4, 8, 16)
Fields = TypeVar("Fields", EditStep, Blend)


def bucket(rows: int) -> int:
    """The smallest size that holds `rows`; beyond the largest, its next multiple."""
    return next((size for size in SIZES if size >= rows), -(-rows // SIZES[-1]) * SIZES[-1])


def filled(rows: int) -> list[int]:
    """Row numbers of a full bucket: all `rows`, then the first one again and again."""
    return [*range(rows), *[0] * (bucket(rows) - rows)]


def take(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """tensor[rows], or the tensor itself where those are all its rows: an index would travel to the
    device."""
    return tensor if _all(rows, tensor) else tensor[list(rows)]


def _all(rows: Sequence[int], tensor: Tensor) -> bool:
    return list(rows) == list(range(tensor.shape[0]))


def take_prompts(prompts: Prompts, rows: Sequence[int]) -> Prompts:
    pooled = None if prompts.pooled is None else take(prompts.pooled, rows)
    return Prompts(tuple(prompts.ids[row] for row in rows), take(prompts.features, rows), pooled)


def of_rows(callback: StepCallback | None, rows: Sequence[int]) -> StepCallback | None:
    """The same callback, shown the rows that were asked for."""
    if callback is None:
        return None

    def shown(step: int, t: int, latents: Tensor) -> Tensor | None:
        replaced = callback(step, t, latents[list(rows)])
        if replaced is None:
            return None
        latents = latents.clone()
        latents[list(rows)] = replaced.to(latents)
        return latents

    return shown


class Padded:
    """DecodeInputs in whole buckets of sources and of targets, and the way back to the rows that
    were asked for."""

    def __init__(self, inputs: DecodeInputs):
        device = inputs.prompts.features.device
        inputs = filled_inputs(inputs, partial(torch.full, dtype=torch.float32, device=device))
        self._targets = inputs.targets(len(inputs.guidance))
        self._sources = inputs.sources
        sources = filled(self._sources)
        own = [filled(count) if count else [] for count in self._targets]
        whole = [[*sources, *(self._sources + row for row in rows)] for rows in own]
        # Latents and guidance have no source rows where the source branch is given.
        given = inputs.source is None
        rows = whole if given else own
        alone = not given or inputs.ahead  # target rows, in what a callback sees and in results
        self._first = 0 if alone else len(sources)
        self.rows = self._rows(0)
        self.inputs = replace(
            inputs,
            latents=take(inputs.latents, rows[0]),
            prompts=take_prompts(inputs.prompts, whole[-1]),
            hop_prompts=inputs.hop_prompts
            and [take_prompts(prompts, whole[-1]) for prompts in inputs.hop_prompts],
            guidance=[
                [row[i] for i in of_hop] for row, of_hop in zip(inputs.guidance, rows, strict=True)
            ],
            edits=inputs.edits and _each(inputs.edits, own),
            blend=inputs.blend and _each(inputs.blend, own),
            anchor=inputs.anchor and _anchor(inputs.anchor, sources),
            parents=inputs.parents
            and [
                take(parents, of_hop) for parents, of_hop in zip(inputs.parents, own, strict=True)
            ],
            keep=inputs.edits is not None and inputs.source is None,
        )

    def _rows(self, k: int) -> list[int]:
        """The rows that were asked for, among those of hop k."""
        sources = range(self._sources if self._first else 0)
        return [*sources, *range(self._first, self._first + self._targets[k])]

    def result(self, decoded: Decoded, asked: DecodeInputs) -> Decoded:
        """The rows and extras that were asked for.

        The source branch is handed on for one source, never padded.
        """
        masks = None
        if asked.blend is not None and decoded.masks is not None:
            masks = [
                mask[:count] for mask, count in zip(decoded.masks, self._targets, strict=False)
            ]
        return Decoded(
            take(decoded.latents, self._rows(0 if asked.only_source else -1)),
            masks,
            decoded.source if asked.keep else None,
            None if masks is None or decoded.maps is None else decoded.maps[:, : self._targets[-1]],
        )


def _each(steps: Sequence[Fields], rows: Sequence[Sequence[int]]) -> list[Fields]:
    return [_take_fields(step, own) for step, own in zip(steps, rows, strict=False)]


def _anchor(anchor: Anchor, sources: Sequence[int]) -> Anchor:
    boundaries = [take(boundary, sources) for boundary in anchor.boundaries]
    return Anchor(boundaries, take(anchor.share, sources))


def _take_fields(whole: Fields, rows: Sequence[int]) -> Fields:
    """These rows of every field; `filled_inputs` has left none out."""
    if _all(rows, whole.source_row):
        return whole
    return type(whole)(*(take(tensor, rows) for tensor in whole if tensor is not None))
