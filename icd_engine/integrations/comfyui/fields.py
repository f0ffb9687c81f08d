"""What a node's widgets hold, as settings: widgets have no empty value, so one stands for "the model's
own"."""

from __future__ import annotations

import json
from typing import Any

from icd_engine.errors import SettingsError
from icd_engine.settings import EditSettings

OWN = "model's own"
OWN_NUMBER = -1.0  # below every setting's range


def settings(more: str = "", blend: str = "", **values: Any) -> dict[str, Any]:
    """The settings that were chosen, checked. more: any others, as a JSON object. SettingsError."""
    chosen = {name: value for name, value in values.items() if value not in (OWN, OWN_NUMBER, "")}
    if blend.strip():
        chosen["blend"] = blend_words(blend)
    others = _object(more) if more.strip() else {}
    twice = sorted(chosen.keys() & others.keys())
    if twice:
        raise SettingsError(f"{twice[0]} is chosen by its own field and in `more`")
    if "mask" in others:  # as a setting it would be the name of a file
        raise SettingsError("mask is an input of its own, beside the settings")
    chosen.update(others)
    EditSettings.from_mapping(chosen)
    return chosen


def blend_words(text: str) -> tuple[list[str], list[str]]:
    """ "cat, bow: dog" -> (["cat", "bow"], ["dog"]); "cat" -> the word in both prompts."""
    sides = [[word.strip() for word in side.split(",")] for side in text.split(":")]
    if len(sides) > 2 or not all(word for side in sides for word in side):
        raise SettingsError("blend must be words, or source words: prompt words")
    return sides[0], sides[-1]


def _object(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise SettingsError('more must be a JSON object, for example {"amplify": {"red": 2}}')
    return values
