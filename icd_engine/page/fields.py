"""The fields of the page of `icd ui`: what they hold becomes an edit's prompts and settings, and
settings become it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from icd_engine.errors import PromptError, SettingsError
from icd_engine.search import SEARCHED
from icd_engine.settings import EditSettings

MOST_TARGETS = 4


@dataclass(frozen=True)
class Form:
    """The fields of the page, as they are filled in.

    targets: one prompt a line. An empty word or number is one that was not given; blend words may
    be several, with commas between. mask_words: a mask is made of where they are, or where the words
    that differ are.
    """

    source: str
    targets: str
    seed: int | None
    guidance_scale: float | None
    tau: float | None
    cross_replace: float | None
    self_replace: float | None
    control: str | None
    amplify_word: str
    amplify_factor: float | None
    blend_source: str
    blend_target: str
    mask_words: bool
    paste_back: bool
    feather: float | None

    def prompts(self) -> list[str]:
        """The target prompts. PromptError if there are none, or too many, or no source prompt that
        they edit."""
        if not self.source.strip():
            raise PromptError("the source prompt is empty: say what the picture shows")
        prompts = [line.strip() for line in self.targets.splitlines() if line.strip()]
        if not prompts:
            raise PromptError("the target prompt is empty: say what the picture should show")
        if len(prompts) > MOST_TARGETS:
            raise PromptError(f"{len(prompts)} target prompts: at most {MOST_TARGETS}, one a line")
        return prompts

    def settings(self) -> dict[str, Any]:
        """Keywords of an edit, the seed aside: it belongs to the inversion. SettingsError."""
        values: dict[str, Any] = {
            name: getattr(self, name) for name in (*SEARCHED, "control", "feather")
        }
        if self.amplify_word.strip():
            values["amplify"] = {self.amplify_word.strip(): self.amplify_factor}
        blend = _words(self.blend_source), _words(self.blend_target)
        if any(blend):
            if not all(blend):
                raise SettingsError(
                    "words to blend by are needed of both prompts, the source and the target"
                )
            values["blend"] = blend
        if self.mask_words:
            values["mask_from"] = "words"
        return {name: value for name, value in values.items() if value is not None}


def shares(settings: EditSettings) -> dict[str, float]:
    """The searched settings as sliders have them: the upper end of a window, in hundredths.

    Rounded up, because a share of the hops counts whole ones: 0.3334 of three is one, 0.33 none.
    """
    values = {}
    for name in SEARCHED:
        value = getattr(settings, name) or 0.0
        value = value.get("default", 0.0) if isinstance(value, Mapping) else value
        value = value[1] if isinstance(value, tuple) else value
        values[name] = math.ceil(100 * value - 0.01) / 100
    return values


def painted(layers: Sequence[np.ndarray]) -> np.ndarray | None:
    """Where any layer, RGBA [h, w, 4], is painted: float32 [h, w], 1 or 0; None where nothing
    is."""
    mask = np.any([layer[..., 3] > 0 for layer in layers], axis=0)
    return mask.astype(np.float32) if mask.any() else None


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
