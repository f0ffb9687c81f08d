"""Decoding inputs made whole: every optional one present, so that one program or graph serves all
edits.

Knows no framework: tensors are torch's or numpy's, whichever the runner takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

from icd_engine.editing.plan import EditStep
from icd_engine.runners.contract import Blend, DecodeInputs, Tensor

# full(shape, value) -> a float32 tensor of that value, where the runner's others are
Full = Callable[[tuple[int, ...], float], Tensor]


def filled_inputs(inputs: DecodeInputs, full: Full) -> DecodeInputs:
    """The same decoding with blend words and masks of nothing where an edit has none."""
    if inputs.edits is None:
        return inputs
    edits = [_with_words(edit, full) for edit in inputs.edits]
    blend = inputs.blend or [None] * len(edits)
    size = tuple(inputs.latents.shape[2:])
    # One for all hops with as many rows
    everywhere = cache(lambda rows: full((rows, *size), 1.0))
    filled = [
        _with_mask(of_hop, edit.source_row, everywhere)
        for of_hop, edit in zip(blend, edits, strict=False)
    ]
    return replace(inputs, edits=edits, blend=filled)


def _with_words(edit: EditStep, full: Full) -> EditStep:
    """The step with blend words, if all zero, so that having some changes values and not the
    program."""
    # Two tensors: a program compiled for one in both places would not serve two.
    source, target = (
        full(tuple(edit.target_gain.shape), 0.0) if words is None else words
        for words in (edit.source_words, edit.target_words)
    )
    return edit._replace(source_words=source, target_words=target)


def _with_mask(
    blend: Blend | None, source_row: Tensor, everywhere: Callable[[int], Tensor]
) -> Blend:
    """Blending, if of nothing: rows without words and masks come back as they are. everywhere(T): the
    mask [T, h, w] that lets all change."""
    if blend is None:
        blend = Blend(source_row, source_row < 0)  # row numbers are not: False for every target
    if blend.user_mask is not None:
        return blend
    return blend._replace(user_mask=everywhere(source_row.shape[0]))
