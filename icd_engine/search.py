"""Automatic settings: several edits of one inversion, and the one that shows the target and leaves
the rest alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np

from icd_engine.automatic import Agreement, ranked
from icd_engine.errors import SettingsError, shown
from icd_engine.results import Candidate, Inversion, Search
from icd_engine.settings import EditSettings, is_a

GUIDANCE_FACTORS = (0.5, 1.5)
SEARCHED = ("cross_replace", "self_replace", "tau", "guidance_scale")


def search(
    inversion: Inversion,
    target: str,
    *,
    edits: int = 34,
    seconds: float | None = None,
    progress: Callable[[int], Any] | None = None,
    **fixed: Any,
) -> Search:
    """Tries settings for one target and returns the best.

    First every different pair of (cross, self) shares: with K decode hops only their numbers of
    hops count. Then, around the best of these, where guidance begins and how strong it is. What
    `fixed` names is left as it is given. At most `edits` edits are made, and none is begun after
    `seconds`. The best is what `automatic.ranked` puts first: the least change that shows the target.
    This is the long way, for contact sheets; `settings="auto"` is the short one. Raises
    SettingsError, PromptError.
    """
    if not isinstance(target, str):
        raise SettingsError("automatic settings are for one target at a time")
    if not is_a(edits, Integral) or edits < 1:
        raise SettingsError(f"edits must be a whole number from 1, not {shown(edits)}")
    if seconds is not None and not is_a(seconds, Real):
        raise SettingsError(f"seconds must be a number, not {shown(seconds)}")
    started = time.perf_counter()
    model = inversion.engine.model
    fixed = {**_asking_once(fixed), "auto": False}
    base = EditSettings.from_mapping(fixed).resolve(model.default_settings)
    source = model.tokens(inversion.source)
    agreement = Agreement(model, source, model.tokens(target), inversion.size)
    tried: dict[tuple, Candidate] = {}

    def over() -> bool:
        return len(tried) >= edits or (
            seconds is not None and time.perf_counter() - started > seconds and bool(tried)
        )

    def attempt(settings: EditSettings) -> None:
        key = tuple(getattr(settings, name) for name in SEARCHED)
        if key in tried or over():
            return
        given = {**fixed, **{name: getattr(settings, name) for name in SEARCHED}}
        result = inversion.edit(target, output_type="latent", **given)
        change = float(
            np.abs(np.asarray(result.latents) - np.asarray(result.source_latents)).mean()
        )
        agrees = float(agreement(result.latents)[0])
        tried[key] = Candidate(result.settings, agrees, change, result.latents)
        if progress is not None:
            progress(1)

    attempt(base)
    for settings in _shares(base, fixed, len(model.decode_hops)):
        attempt(settings)
    best = ranked(list(tried.values()))[0].settings
    for settings in _guidances(best, fixed, model.bundle.decode_times, model.steps):
        attempt(settings)
    candidates = ranked(list(tried.values()))
    chosen = {name: getattr(candidates[0].settings, name) for name in SEARCHED}
    return Search(inversion.edit(target, **{**fixed, **chosen}), candidates)


def _asking_once(fixed: dict[str, Any]) -> dict[str, Any]:
    """The same settings; a user's own function, which may be slow, is called once for the words, and
    not for every edit."""
    mask_from = fixed.get("mask_from")
    if not callable(mask_from):
        return fixed
    made: dict[tuple[str, ...], Any] = {}

    def call(picture: Any, words: tuple[str, ...]) -> Any:
        if words not in made:
            made[words] = mask_from(picture, words)
        return made[words]

    return {**fixed, "mask_from": call}


def _shares(base: EditSettings, fixed: dict[str, Any], hops: int) -> Iterator[EditSettings]:
    """Every number of hops of either control that is not given, the middle ones first: a budget may
    end early."""
    cross = (
        [base.cross_replace]
        if "cross_replace" in fixed
        else [k / (hops + 1) + 1e-6 for k in range(hops + 1)]
    )
    own = (
        [base.self_replace]
        if "self_replace" in fixed
        else [min(k / hops + 1e-6, 1.0) for k in range(hops + 1)]
    )
    pairs = [(i, j) for i in range(len(cross)) for j in range(len(own))]
    pairs.sort(
        key=lambda pair: abs(pair[0] - (len(cross) - 1) / 2) + abs(pair[1] - (len(own) - 1) / 2)
    )
    for i, j in pairs:
        yield replace(base, cross_replace=cross[i], self_replace=own[j])


def _guidances(
    base: EditSettings, fixed: dict[str, Any], times: Sequence[int], steps: int
) -> Iterator[EditSettings]:
    """Thresholds between the decode steps, and stronger or weaker guidance, one and then both."""
    taus: list[Any] = [base.tau]
    if "tau" not in fixed:
        taus += [
            (low + high) / (2 * steps)
            for low, high in zip(times[-3:], (*times[-2:], steps), strict=False)
        ]
    scales = [base.guidance_scale or 0.0]
    if "guidance_scale" not in fixed:
        scales += [factor * scales[0] for factor in GUIDANCE_FACTORS]
    for scale in scales:
        for tau in taus:
            yield replace(base, tau=tau, guidance_scale=scale)
