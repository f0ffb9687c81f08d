"""All numbers of a distillation: one JSON file for the three stages, with any of them
overridden."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from icd_engine.errors import SettingsError
from training.choices import Chain, Guidance, Preservation
from training.recipe import Recipe

PRESETS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class TrainingConfig:
    """What the stages share, and a recipe for each; `Recipe`, `Chain`, `Guidance`, `Preservation`
    say what is in them.

    size: side of the pictures. lora_rank: None trains full weights. checkpointing: activations are
    computed twice and not kept. cycle_start: encode step the cycle stage starts at, 0 for the clean
    latents. check_w, check_tau: guidance of the pictures and figures a run is watched by. defaults:
    settings of an edit that the bundle shall have instead of the reference's.
    """

    size: int
    guidance: Recipe
    icd: Recipe
    cycle: Recipe
    chain: Chain = field(default_factory=Chain)
    w: Guidance = field(default_factory=Guidance)
    preserve: Preservation = field(default_factory=Preservation)
    distance: Literal["huber", "l2"] = "huber"
    lora_rank: int | None = 64
    lora_alpha: float = 8.0
    checkpointing: bool = False
    cycle_start: int = 0
    held_out: int = 16
    check_w: float = 7.0
    check_tau: float = 0.8
    defaults: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.lora_rank is not None and self.lora_rank < 1:
            raise ValueError(
                f"lora_rank must be at least 1, or null for full weights, not {self.lora_rank}"
            )


def read_config(name: str, overrides: Sequence[str] = ()) -> TrainingConfig:
    """A preset by name, or a JSON file; overrides are `name=JSON`, with dots: `icd.batch=64`.

    SettingsError.
    """
    path = Path(name) if name.endswith(".json") else PRESETS / f"{name}.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        known = ", ".join(sorted(preset.stem for preset in PRESETS.glob("*.json")))
        raise SettingsError(
            f"no configuration {name!r} (presets: {known}; or a .json file)"
        ) from None
    except ValueError as error:
        raise SettingsError(f"{path} is not readable JSON: {error}") from None
    for text in overrides:
        _override(values, text)
    return _made(TrainingConfig, values, "")


def _override(values: dict[str, Any], text: str) -> None:
    name, equals, value = text.partition("=")
    if not equals:
        raise SettingsError(f"{text!r} must be NAME=VALUE")
    *groups, last = name.split(".")
    for group in groups:
        values = values.setdefault(group, {})
        if not isinstance(values, dict):
            raise SettingsError(f"{text!r}: {group} has no fields")
    try:
        values[last] = json.loads(value)
    except ValueError:
        values[last] = value


def _made(kind: Any, value: Any, name: str) -> Any:
    """`value` of JSON as `kind`. SettingsError naming the field that does not fit."""
    origin = get_origin(kind)
    choices = get_args(kind)
    if is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise SettingsError(f"{name or 'the configuration'} must be an object, not {value!r}")
        hints = get_type_hints(kind)
        known = {each.name for each in fields(kind)}
        for key in value:
            if key not in known:
                raise SettingsError(f"{name}{key} is no field (known: {', '.join(sorted(known))})")
        made = {key: _made(hints[key], each, f"{name}{key}.") for key, each in value.items()}
        try:
            return kind(**made)  # pyright: ignore[reportCallIssue]
        except (TypeError, ValueError) as error:
            raise SettingsError(f"{name.rstrip('.') or 'configuration'}: {error}") from None
    if origin in (Union, types.UnionType):
        return None if value is None and type(None) in choices else _made(choices[0], value, name)
    if origin is Literal:
        if value not in choices:
            raise SettingsError(
                f"{name.rstrip('.')} must be one of {', '.join(choices)}, not {value!r}"
            )
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise SettingsError(f"{name.rstrip('.')} must be a list, not {value!r}")
        return tuple(_made(choices[0], each, name) for each in value)
    if origin is dict:
        return dict(_made(dict, value, name))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise SettingsError(f"{name.rstrip('.')} must be {kind.__name__}, not {value!r}")
    return value
