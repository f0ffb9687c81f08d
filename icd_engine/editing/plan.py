"""The plan of an edit: prompt-to-prompt control as numbers per decode step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from icd_engine.editing.words import Tokens, Word, differing
from icd_engine.errors import PromptError, shown
from icd_engine.settings import EditSettings

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class EditPlan:
    """One target of an edit, K decode steps, n tokens. The edited cross-attention is P_s @ S_k +
    P_t * d_k.

    source_mix: S_k [K, n, n], source token -> target token. target_gain: d_k [K, n]. share_self:
    [K], whether the target row takes the source row's self-attention. blend_source, blend_target:
    [n], 1 on the tokens of the local blend words of each prompt, or None without local blend.
    """

    source_mix: Floats
    target_gain: Floats
    share_self: NDArray[np.bool_]
    blend_source: Floats | None
    blend_target: Floats | None


class EditStep(NamedTuple):
    """What one decode step does to attention, for a batch of S source rows, then T target rows; n
    tokens a prompt.

    Cross-attention maps of a target row become P_t' = P_s S + P_t d, with P_s and P_t the softmaxed
    maps of its source row and of its own (prompt-to-prompt; all of it is linear in the maps, so
    none is ever stored). Arrays or tensors, whichever the runner takes.
    """

    source_row: Any  # [T] int64: the source row of each target row
    source_mix: Any  # [T, n, n]: S
    target_gain: Any  # [T, n]: d
    share_self: Any  # [T] bool: self-attention takes Q and K from the source row
    # [T, n]: 1 on the source prompt's tokens that steer local blend; None: no words
    source_words: Any = None
    target_words: Any = None  # [T, n]: the same for the target prompt


def make_plan(source: Tokens, target: Tokens, settings: EditSettings, steps: int) -> EditPlan:
    """The plan of one edit of `steps` decode steps, from resolved settings (a share that is None
    counts as 0).

    Replace: S_k = M diag(alpha_k eq), d_k = 1 - alpha_k. Refine: S_k = M diag(alpha_k eq a),
    d_k = alpha_k eq (1 - a) + 1 - alpha_k. "auto" is replace for equal word counts, else refine;
    "none" and "switch" edit by the prompts alone (S_k = 0, d_k = 1). PromptError naming a word that
    a setting holds and the prompt does not, or if replace is asked for and the word counts differ.
    """
    alpha = cross_windows(target, settings.cross_replace, steps)
    gain = _equalizer(target, settings.amplify)
    share_self = _window(settings.self_replace, steps, steps)
    control = _control(source, target, settings.control)
    if control in ("none", "switch"):
        alpha = np.zeros_like(alpha)
        share_self = np.zeros_like(share_self)
    mapper, aligned = (
        _replace_mapper(source, target) if control == "replace" else _refine_mapper(source, target)
    )
    blend = _blend_columns(source, target, settings)
    return EditPlan(
        source_mix=np.einsum("st,kt->kst", mapper, alpha * gain * aligned),
        target_gain=alpha * gain * (1 - aligned) + 1 - alpha,
        share_self=share_self,
        blend_source=blend[0],
        blend_target=blend[1],
    )


def edit_steps(
    plans: Sequence[EditPlan], owner: Sequence[int], tensor: Callable[[np.ndarray], Any]
) -> list[EditStep]:
    """The plans of all target rows as tensors per hop; target i belongs to source row owner[i]."""

    def stack(arrays: Sequence[np.ndarray]) -> Any:
        return tensor(np.stack(arrays))

    source_row = tensor(np.array(owner, dtype=np.int64))
    nothing = np.zeros(plans[0].target_gain.shape[-1], dtype=np.float32)
    words = [
        stack([nothing if column is None else column for column in columns])
        if any(column is not None for column in columns)
        else None
        for columns in ([p.blend_source for p in plans], [p.blend_target for p in plans])
    ]
    # Steps first, so that each is contiguous: compiled code is chosen by strides too.
    mix, gain, share = (
        tensor(np.stack([getattr(plan, name) for plan in plans], axis=1))
        for name in ("source_mix", "target_gain", "share_self")
    )
    return [EditStep(source_row, *step, *words) for step in zip(mix, gain, share, strict=True)]


def cross_windows(target: Tokens, cross_replace: Any, steps: int) -> Floats:
    """alpha [steps, n]: 1 where the token's cross-attention still comes from the source.

    A share c gives k < int(c (steps + 1)), a window (c0, c1) int(c0 (steps + 1)) <= k < int(c1
    (steps + 1)); a word's own window overrides the default on its tokens.
    """
    windows = cross_replace if isinstance(cross_replace, Mapping) else {"default": cross_replace}
    alpha = np.empty((steps, len(target.ids)), dtype=np.float32)
    alpha[:] = _window(windows.get("default"), steps + 1, steps)[:, None]
    for word, share in windows.items():
        if word != "default":
            alpha[:, target.find(word)] = _window(share, steps + 1, steps)[:, None]
    return alpha


def _window(share: float | tuple[float, float] | None, count: int, steps: int) -> NDArray[np.bool_]:
    low, high = share if isinstance(share, tuple) else (0.0, share or 0.0)
    k = np.arange(steps)
    return (int(low * count) <= k) & (k < int(high * count))


def _equalizer(target: Tokens, amplify: Mapping[str, float] | None) -> Floats:
    gain = np.ones(len(target.ids), dtype=np.float32)
    for word, factor in (amplify or {}).items():
        gain[list(target.find(word))] = factor
    return gain


def _control(source: Tokens, target: Tokens, control: str | None) -> str:
    counts = len(source.words), len(target.words)
    if control in (None, "auto"):
        return "replace" if counts[0] == counts[1] else "refine"
    if control == "replace" and counts[0] != counts[1]:
        raise PromptError(
            f"control 'replace' needs prompts of equal word counts, but {shown(source.text)} has {counts[0]} words and "
            f"{shown(target.text)} has {counts[1]}: use 'refine'"
        )
    return control


def _replace_mapper(source: Tokens, target: Tokens) -> tuple[Floats, Floats]:
    """M [n, n]: word by word; one-to-one for equal token counts, else spread evenly over the
    target's tokens."""
    n = len(target.ids)
    mapper = np.zeros((n, n), dtype=np.float32)
    pairs = [
        (s.tokens, t.tokens)
        for s, t in zip(source.words, target.words, strict=True)
        if s.tokens and t.tokens
    ]
    for s, t in pairs:
        if len(s) == len(t):
            mapper[s, t] = 1
        else:
            mapper[np.ix_(s, t)] = 1 / len(t)
    # Begin, end, padding, and words whose partner was cut away: in order.
    in_source = {p for s, _ in pairs for p in s}
    in_target = {p for _, t in pairs for p in t}
    rest = zip(
        (p for p in range(n) if p not in in_source),
        (p for p in range(n) if p not in in_target),
        strict=False,
    )
    for s, t in rest:
        mapper[s, t] = 1
    return mapper, np.ones(n, dtype=np.float32)


def _refine_mapper(source: Tokens, target: Tokens) -> tuple[Floats, Floats]:
    """M [n, n], column j picks source token m(j), and a [n]; a new token's column is empty."""
    m, aligned = align(source, target)
    mapper = np.zeros((len(m), len(m)), dtype=np.float32)
    mapper[m, np.arange(len(m))] = aligned
    return mapper, aligned


def align(source: Tokens, target: Tokens) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Needleman-Wunsch alignment of two token sequences: gap 0, match 1, mismatch -1 (begin and end
    included).

    Returns m [n], the source position of every target position (-1 = new), and a [n], 1 where
    aligned, 0 where new. Positions after the target's end map to themselves. Where scores tie, the
    traceback takes a target token as new first, then drops a source token, then pairs the two.
    """
    x = source.ids[: source.length]
    y = target.ids[: target.length]
    score = np.zeros((len(x) + 1, len(y) + 1), dtype=np.int64)
    for i, j in np.ndindex(len(x), len(y)):
        pair = score[i, j] + (1 if x[i] == y[j] else -1)
        score[i + 1, j + 1] = max(score[i + 1, j], score[i, j + 1], pair)
    m = np.arange(len(target.ids))
    i, j = len(x), len(y)
    while j > 0:
        if i == 0 or score[i, j] == score[i, j - 1]:
            j -= 1
            m[j] = -1
        elif score[i, j] == score[i - 1, j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            m[j] = i
    return m, (m >= 0).astype(np.float32)


def _blend_columns(
    source: Tokens, target: Tokens, settings: EditSettings
) -> tuple[Floats | None, Floats | None]:
    """The blend words of both prompts as [n]: those of the settings, or those that differ where a
    mask is made of words; None where nothing blends."""
    if settings.blend is not None:
        found = [
            tokens.find(words)
            for tokens, words in zip((source, target), settings.blend, strict=True)
        ]
    elif settings.from_words:
        found = [_positions(words) for words in differing(source, target)]
    else:
        return None, None
    first, second = (_indicator(len(source.ids), positions) for positions in found)
    return (first, second) if first.any() or second.any() else (None, None)


def _positions(words: Sequence[Word]) -> list[int]:
    return [position for word in words for position in word.tokens]


def _indicator(count: int, positions: Sequence[int]) -> Floats:
    indicator = np.zeros(count, dtype=np.float32)
    indicator[list(positions)] = 1
    return indicator
