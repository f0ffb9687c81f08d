"""Decoding inputs made whole: every optional one present, so that one program or graph serves all
edits.

Knows no framework: tensors are torch's or numpy's, whichever the runner takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from icd_engine.editing.plan import EditStep
from icd_engine.runners.contract import Blend, DecodeInputs, Tensor

# full(shape, value) -> a float32 tensor of that value, where the runner's others are
Full = Callable[[tuple[int, ...], float], Tensor]


def filled_inputs(inputs: DecodeInputs, full: Full) -> DecodeInputs:
    """The same decoding with blend words and masks of nothing where an edit has none."""
    if inputs.edits is None:
        return inputs
    edits = [_with_words(edit, full) for edit in inputs.edits]
    return replace(inputs, edits=edits, blend=_with_mask(inputs, edits[0].source_row, full))


def _with_words(edit: EditStep, full: Full) -> EditStep:
    """The step with blend words, if all zero, so that having some changes values and not the
    program."""
    # Two tensors: a program compiled for one in both places would not serve two.
    source, target = (
        full(tuple(edit.target_gain.shape), 0.0) if words is None else words
        for words in (edit.source_words, edit.target_words)
    )
    return edit._replace(source_words=source, target_words=target)


def _with_mask(inputs: DecodeInputs, source_row: Tensor, full: Full) -> Blend:
    """Blending, if of nothing: rows without words and masks come back as they are."""
    nowhere = source_row < 0  # row numbers are not: False for every target
    blend = inputs.blend or Blend(source_row, nowhere)
    if blend.user_mask is not None:
        return blend
    everywhere = full((len(source_row), *inputs.latents.shape[2:]), 1.0)
    return blend._replace(user_mask=everywhere)
