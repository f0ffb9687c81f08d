"""Requests are checked before any network is called, each into one record: the Task."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from icd_engine.editing.plan import EditPlan, make_plan
from icd_engine.editing.words import Tokens
from icd_engine.errors import PromptError, SettingsError, shown
from icd_engine.images import load_image, to_size
from icd_engine.model import Model
from icd_engine.reporting import Listener
from icd_engine.results import EditRequest, Inversion
from icd_engine.settings import EditSettings


@dataclass(frozen=True, eq=False)
class Task:
    """One request, from its check to its result.

    picture: RGB, at the size its edits come back in; None for an inversion that was loaded. size:
    (width, height) that the model works at. targets, plans: none where it is only inverted.
    inversion: once it is encoded. calls: network calls that encoding took. chosen: the settings that
    the caller gave; automatic settings leave them alone.
    """

    picture: Image.Image | None
    size: tuple[int, int]
    source: Tokens
    settings: EditSettings
    targets: Sequence[Tokens] = ()
    plans: Sequence[EditPlan] = ()
    inversion: Inversion | None = None
    calls: int = 0
    chosen: frozenset[str] = frozenset()


def check_picture(
    model: Model, image: Any, source: str, given: EditSettings, size: tuple[int, int] | None
) -> Task:
    """A picture to encode. size: what it is worked at and comes back in; None: its own size, and
    the model's area in about its aspect. Raises ImageError, PromptError, SettingsError."""
    asked = None if size is None else model.checked_size(size)
    picture = load_image(image)
    if asked is not None:
        picture = Image.fromarray(to_size(picture, asked)[0])
    works_at = asked or model.working_size(picture.size)
    settings = model.settle(given, works_at)
    return Task(picture, works_at, model.tokens(source), settings, chosen=given.chosen)


def check_request(model: Model, request: EditRequest, size: tuple[int, int] | None) -> Task:
    """A picture to encode and to edit: see `check_picture`."""
    given = request.checked_settings()
    task = check_picture(model, request.image, request.source, given, size)
    return _towards(model, task, request.target, given)


def check_kept(
    model: Model, inversion: Inversion, target: str | Sequence[str], given: EditSettings
) -> Task:
    """A kept inversion to edit. Raises PromptError, SettingsError."""
    if given.seed not in (None, inversion.seed):
        raise SettingsError(
            f"seed is {inversion.seed} in this inversion and cannot become {given.seed}"
        )
    settings = model.settle(given.resolve(EditSettings(seed=inversion.seed)), inversion.size)
    if settings.paste_back and inversion.picture is None:
        raise SettingsError(
            "paste_back needs the picture, which saved inversions do not carry: edit the picture"
        )
    if settings.anchor and inversion.boundaries is None:
        warnings.warn(
            "this inversion does not hold its encode trajectory: its edits are not anchored "
            "(anchor=0); invert the picture again for better ones",
            stacklevel=3,
        )
        settings = settings.with_values({"anchor": 0.0})
    source = model.tokens(inversion.source)
    task = Task(
        inversion.picture,
        inversion.size,
        source,
        settings,
        inversion=inversion,
        chosen=given.chosen,
    )
    return _towards(model, task, target, given)


def _towards(model: Model, task: Task, target: str | Sequence[str], given: EditSettings) -> Task:
    targets = [model.tokens(text) for text in texts(target)]
    if len(targets) > 1 and task.settings.auto:
        if given.auto:
            raise SettingsError("automatic settings are for one target at a time")
        task = replace(task, settings=task.settings.with_values({"auto": False}))
    hops = len(model.decode_hops)
    plans = [make_plan(task.source, tokens, task.settings, hops) for tokens in targets]
    return replace(task, targets=targets, plans=plans)


def with_automatic(settings: str | None, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The chosen settings, with `auto` where settings is "auto". SettingsError for anything else."""
    if settings is None:
        return dict(chosen)
    if settings != "auto":
        raise SettingsError(f"settings must be 'auto' or left out, not {shown(settings)}")
    return {**chosen, "auto": True}


def check_alone(task: Task, listener: Listener) -> None:
    """SettingsError where automatic settings were asked for with a callback: there are rows of many
    candidates, and it would see them all."""
    if task.settings.auto and "auto" in task.chosen and listener.may_change:
        raise SettingsError("automatic settings take no callback")


def texts(prompts: str | Sequence[str]) -> list[str]:
    """One prompt or several as a list. PromptError if there is none."""
    if isinstance(prompts, str):
        return [prompts]
    if not isinstance(prompts, list | tuple) or not prompts:
        raise PromptError(f"a prompt, or a list of prompts, is needed, not {shown(prompts)}")
    return list(prompts)
