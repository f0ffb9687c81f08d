"""Requests are checked before any network is called, each into one record: the Task."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from icd_engine.editing.plan import EditPlan, make_plan
from icd_engine.editing.words import Tokens, differing, emphasis
from icd_engine.errors import ImageError, PromptError, SettingsError, shown
from icd_engine.images import opaque, read_picture, to_size
from icd_engine.masks import load_mask
from icd_engine.model import Model
from icd_engine.reporting import Listener
from icd_engine.results import EditRequest, Inversion
from icd_engine.settings import EditSettings, GivenSettings


@dataclass(frozen=True, eq=False)
class Task:
    """One request, from its check to its result.

    picture: RGB, at the size its edits come back in, with metadata in its `info`; None for an inversion
    that was loaded. alpha: its transparency, L, where it has some. size:
    (width, height) that the model works at. targets, plans: none where it is only inverted.
    inversion: once it is encoded. calls: network calls that encoding took. chosen: the settings that
    the caller gave; automatic settings leave them alone. given_size: of the
    picture before it was brought to a size that was asked for.
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
    given_size: tuple[int, int] | None = None
    alpha: Image.Image | None = None


def check_picture(
    model: Model,
    image: Any,
    source: str | None,
    given: EditSettings,
    size: tuple[int, int] | None,
) -> Task:
    """A picture to encode. size: what it is worked at and comes back in; None: its own size, and
    the model's area in about its aspect. Raises ImageError, PromptError, SettingsError."""
    asked = None if size is None else model.checked_size(size)
    read = read_picture(image)
    given_size = read.size
    picture, alpha = opaque(read)
    if asked is not None:
        picture = Image.fromarray(to_size(picture, asked)[0])
        alpha = None if alpha is None else alpha.resize(asked, Image.Resampling.BICUBIC)
    picture.info = read.info
    works_at = asked or model.working_size(picture.size)
    return Task(
        picture,
        works_at,
        model.source_tokens(source),
        model.settle(given),
        chosen=given.chosen,
        given_size=given_size,
        alpha=alpha,
    )


def check_request(model: Model, request: EditRequest, size: tuple[int, int] | None) -> Task:
    """A picture to encode and to edit: see `check_picture`."""
    given = request.checked_settings()
    task = check_picture(model, request.image, request.source, given, size)
    assert task.picture is not None
    return _towards(model, task, request.target, given, task.picture.size)


def check_requests(
    model: Model, requests: Sequence[EditRequest], size: tuple[int, int] | None
) -> list[Task]:
    """The same of several, all of them before any network is called."""
    if not isinstance(requests, list | tuple) or not all(
        isinstance(one, EditRequest) for one in requests
    ):
        raise SettingsError(f"edit_many takes a list of EditRequest, not {shown(requests)}")
    return [check_request(model, request, size) for request in requests]


def check_kept(
    model: Model, inversion: Inversion, target: str | Sequence[str], given: EditSettings
) -> Task:
    """A kept inversion to edit. Raises PromptError, SettingsError."""
    if given.seed not in (None, inversion.seed):
        raise SettingsError(
            f"seed is {inversion.seed} in this inversion and cannot become {given.seed}"
        )
    settings = model.settle(given.resolve(EditSettings(seed=inversion.seed)))
    if settings.anchor and inversion.boundaries is None:
        warnings.warn(
            "this inversion does not hold its encode trajectory: its edits are not anchored "
            "(anchor=0); invert the picture again for better ones",
            stacklevel=3,
        )
        settings = settings.with_values({"anchor": 0.0})
    if inversion.picture is None:
        if given.detail:
            raise SettingsError(
                "saved inversions do not carry the picture, whose detail is asked for: edit the "
                "picture"
            )
        settings = settings.with_values({"detail": 0.0})
    source = model.source_tokens(inversion.source or None)
    model.check_encoding(inversion.made_with, source)
    task = Task(
        inversion.picture,
        inversion.size,
        source,
        settings,
        inversion=inversion,
        chosen=given.chosen,
        given_size=inversion.given_size,
        alpha=inversion.alpha,
    )
    return _towards(model, task, target, given, inversion.picture_size)


def _towards(
    model: Model,
    task: Task,
    target: str | Sequence[str],
    given: EditSettings,
    size: tuple[int, int],
) -> Task:
    """The task with its targets. size: of the pictures that it returns."""
    targets = all_tokens(model, target, "target prompt")
    _warn_of_emphasis([task.source, *targets])
    if len(targets) > 1 and task.settings.auto:
        if given.auto:
            raise SettingsError("automatic settings are for one target at a time")
        task = replace(task, settings=task.settings.with_values({"auto": False}))
    if not task.source.text:
        task = replace(task, settings=_without_source(task.settings, given))
    settings = _restricted(model, task, targets, given, size)
    hops = len(model.decode_hops)
    plans = [make_plan(task.source, tokens, settings, hops) for tokens in targets]
    return replace(task, settings=settings, targets=targets, plans=plans)


def _without_source(settings: EditSettings, given: EditSettings) -> EditSettings:
    """Those of an edit without a source prompt. SettingsError where they ask for its words."""
    controlled = given.control not in (None, "none")
    if controlled or given.auto or given.blend is not None or given.from_words:
        raise SettingsError(
            "control, auto, blend and mask_from follow the words of a source prompt: give one"
        )
    return settings.with_values({"control": "none", "auto": False, "blend": None})


def _restricted(
    model: Model,
    task: Task,
    targets: Sequence[Tokens],
    given: EditSettings,
    size: tuple[int, int],
) -> EditSettings:
    """The task's settings with its mask read (once: a stream gives its bytes once) at `size`, and
    what is pasted back and how settled. SettingsError, ImageError."""
    settings = task.settings
    values: dict[str, Any] = {"paste_back": False}
    if settings.feather is None:
        values["feather"] = _cell(model, task.size, size) / 2
    if settings.mask is not None:
        values["mask"] = load_mask(settings.mask, size, task.given_size, settings.mask_alpha)
    if settings.mask_from is not None:
        values["mask"] = _with_words(task, targets, values.get("mask"), size)
        values["mask_from"] = settings.mask_from if settings.from_words else None
    if settings.mask is not None or settings.mask_from is not None or settings.blend is not None:
        values["paste_back"] = _pastes_back(task, given)
    elif given.paste_back:
        raise SettingsError(
            "paste_back needs blend words or a mask: they say what is not to change"
        )
    return settings.with_values(values)


def _with_words(
    task: Task, targets: Sequence[Tokens], mask: np.ndarray | None, size: tuple[int, int]
) -> np.ndarray | None:
    """The mask, and what the user's own function makes of the words, where that is given: both must
    agree. SettingsError where there are no words, or what it makes is no mask."""
    settings = task.settings
    words = _words(task, targets)
    if not words:
        raise SettingsError(
            "mask_from needs words that differ between the prompts, or blend to say which"
        )
    if not callable(settings.mask_from):
        return mask
    if task.picture is None:
        raise SettingsError(
            "mask_from needs the picture, which saved inversions do not carry: edit the picture"
        )
    made = settings.mask_from(task.picture.copy(), words)
    try:
        own = load_mask(made, size)
    except ImageError as error:
        raise SettingsError(f"what mask_from returned is no mask: {error}") from None
    return own if mask is None else np.minimum(mask, own)


def _words(task: Task, targets: Sequence[Tokens]) -> tuple[str, ...]:
    """The source's blend words: by default those that some target has not, or, where a target only
    adds words, those."""
    if task.settings.blend is not None:
        return tuple(task.settings.blend[0])
    pairs = [differing(task.source, target) for target in targets]
    for side in (0, 1):
        words = dict.fromkeys(word.text for pair in pairs for word in pair[side])
        if words:
            return tuple(words)
    return ()


def _pastes_back(task: Task, given: EditSettings) -> bool:
    """Whether a restricted edit keeps the original's own pixels. SettingsError where that is asked
    for and there are none, a warning where it is not."""
    settings = task.settings
    wanted = settings.paste_back
    if wanted is None:
        wanted = settings.mask is not None or settings.mask_from is not None
    if not wanted or task.picture is not None:
        return wanted
    text = "saved inversions do not carry the picture, whose pixels paste_back keeps"
    if given.paste_back:
        raise SettingsError(f"{text}: edit the picture")
    warnings.warn(f"{text}: what the mask keeps comes back as it is decoded", stacklevel=2)
    return False


def _cell(model: Model, works_at: tuple[int, int], size: tuple[int, int]) -> float:
    """Pixels of a picture of `size` that a cell of its latents is wide or high."""
    _, _, *cells = model.latent_shape(works_at)
    return max(length / count for length, count in zip(size[::-1], cells, strict=True))


def given_settings(settings: GivenSettings, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the chosen ones over them; "auto" is `auto`. SettingsError for what are no
    settings."""
    if isinstance(settings, EditSettings):
        settings = settings.as_dict()
    if settings is None or isinstance(settings, Mapping):
        return {**(settings or {}), **chosen}
    if not isinstance(settings, str) or settings != "auto":
        raise SettingsError(
            "settings must be 'auto', EditSettings or names with their values, not "
            f"{shown(settings)}"
        )
    return {**chosen, "auto": True}


def check_alone(task: Task, listener: Listener) -> None:
    """SettingsError where automatic settings were asked for with a callback: there are rows of many
    candidates, and it would see them all."""
    if task.settings.auto and "auto" in task.chosen and listener.may_change:
        raise SettingsError("automatic settings take no callback")


def all_tokens(model: Model, prompts: str | Sequence[str], called: str) -> list[Tokens]:
    """The tokens of one prompt or several; `called`: what errors say they are. PromptError."""
    if isinstance(prompts, str):
        return [model.tokens(prompts, f"the {called}")]
    if not isinstance(prompts, list | tuple) or not prompts:
        raise PromptError(f"a {called}, or a list of them, is needed, not {shown(prompts)}")
    count = len(prompts)
    return [
        model.tokens(text, f"the {called}" if count == 1 else f"{called} {i} of {count}")
        for i, text in enumerate(prompts, 1)
    ]


def _warn_of_emphasis(prompts: Sequence[Tokens]) -> None:
    """Once an edit: what other programs read as weights is read as it is written here."""
    for one in prompts:
        part = emphasis(one.text)
        if part is not None:
            warnings.warn(
                f"{one.name} has {shown(part)}, and brackets give no weight here: they are read as "
                "text. Setting amplify strengthens a word of the target prompt: "
                "amplify={'word': 1.3}",
                stacklevel=2,
            )
            return
