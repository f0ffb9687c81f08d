"""Fixed batch sizes: decode rows filled up, so that compiled code is reused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from icd_engine.editing.plan import EditStep
from icd_engine.runners.contract import Blend, Decoded, DecodeInputs, Prompts, StepCallback
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
    return tensor if list(rows) == list(range(len(tensor))) else tensor[list(rows)]


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
        prompts = len(inputs.prompts)
        targets = 0 if inputs.edits is None else len(inputs.edits[0].source_row)
        self._sources = prompts - targets
        sources = filled(self._sources)
        own = filled(targets) if targets else []
        self._target_rows = slice(0, targets)
        all_rows = [*sources, *(self._sources + row for row in own)]
        # Latents and guidance have no source rows where the source branch is given.
        rows = own if inputs.source is not None else all_rows
        first = 0 if inputs.source is not None else len(sources)
        given = 0 if inputs.source is not None else self._sources
        self.rows = [*range(given), *range(first, first + targets)]
        self.inputs = replace(
            inputs,
            latents=take(inputs.latents, rows),
            prompts=take_prompts(inputs.prompts, all_rows),
            hop_prompts=inputs.hop_prompts
            and [take_prompts(prompts, all_rows) for prompts in inputs.hop_prompts],
            guidance=[[row[i] for i in rows] for row in inputs.guidance],
            edits=inputs.edits and [_take_fields(edit, own) for edit in inputs.edits],
            blend=inputs.blend and _take_fields(inputs.blend, own),
            keep=inputs.edits is not None and inputs.source is None,
        )

    def result(self, decoded: Decoded, asked: DecodeInputs) -> Decoded:
        """The rows and extras that were asked for.

        The source branch is handed on for one source, never padded.
        """
        masks = decoded.masks if asked.blend is not None and decoded.masks is not None else None
        return Decoded(
            take(decoded.latents, self.rows),
            None if masks is None else masks[:, self._target_rows],
            decoded.source if asked.keep else None,
        )


def _take_fields(whole: Fields, rows: Sequence[int]) -> Fields:
    """These rows of every field; `filled_inputs` has left none out."""
    return type(whole)(*(take(tensor, rows) for tensor in whole if tensor is not None))
