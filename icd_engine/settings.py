"""What an edit may be told: one frozen dataclass, validated where it is made."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Literal, get_args

from icd_engine.errors import SettingsError, shown

MaskFrom = Literal["words"]  # what a mask may be made of by name
MaskAlpha = Literal[
    "painted", "hole"
]  # where transparency in a mask says that the picture may change
Control = Literal["auto", "replace", "refine", "switch", "none"]
Share = float | tuple[float, float]
Words = str | Sequence[str]

# What says how an edit is to be made; seed, mask and the like do not
ATTENTION = ("control", "cross_replace", "self_replace", "amplify", "blend")
CHOICES = ("guidance_scale", "tau", "tau_low", *ATTENTION, "anchor")
MAX_GUIDANCE = 100.0
MAX_AMPLIFY = 20.0
MAX_FEATHER = 1000.0


@dataclass(frozen=True, kw_only=True)
class EditSettings:
    """Settings of one edit. None means "take the bundle's default" (see `resolve`).

    guidance_scale: w in code notation (0 = unguided, the paper's w minus 1), 0..100.
    tau, tau_low: dynamic guidance in shares of 1000 steps, see
    `sampling.guidance.dynamic_guidance`.
    control: "replace" (equal word counts), "refine" (any two prompts), "auto" (picks one of these),
        "none", or "switch": the source prompt above tau, the target below it, no attention control,
        no blend words (the reference's way for SDXL).
    cross_replace: share c of decode steps whose cross-attention comes from the source, a window
        (c0, c1), or a mapping {target word or "default": share or window}.
    self_replace: the same for self-attention, share or window; the counts of steps round differently,
        see `editing.plan.cross_windows`.
    amplify: {target word: factor}, factors -20..20.
    blend: a tuple (source word or words, target word or words); one string or a list of strings
        serves both prompts. Kept as a pair of tuples. A string of several words is a phrase.
    mask: picture or array of the picture's aspect: 0 is kept, 1 may change, between is how strongly:
        see `masks.by_hop`. With blend words, both must agree.
    mask_alpha: of a mask with transparency, which may change: "painted", what covers, or "hole", what
        is transparent, as OpenAI's API has it. None: see `masks.load_mask`.
    mask_from: "words": a mask of where the blend words are, by default those that differ between the
        prompts, see `word_masks`; or a function (picture, words) -> mask, called with the PIL
        picture that edits come back as and the source's words.
    paste_back: outside mask and blend words, return the original's own pixels (needs one of them).
        None: where there is a mask. feather: pixels of the returned picture over which the edit
        fades in, inside of the mask; None: half a cell of the latents. seed: of the encode noise.
    anchor: 0..1, how far an edit is held to the encode trajectory of its picture, see
        `runners.contract.Anchor`; 0 is the paper's own decoding, 1 hands all that the source branch
        misses to the targets.
    detail: 0..1, how much of what the VAE lost of the picture comes back where the edit shows the
        same, at the picture's own resolution, see `compositing.with_detail`. None: as great as
        `anchor`; 0 where there is no picture, as in saved inversions.
    keep_alpha: PIL pictures come back with the source's transparency (arrays never do). None: yes.
    auto: attention and blend words that are left open are chosen, see `icd_engine.automatic`. A
        model's own defaults may ask for it; then it is done where nothing of CHOICES is given.
    Raises SettingsError naming the field.
    """

    guidance_scale: float | None = None
    tau: Share | None = None
    tau_low: float | None = None
    control: Control | None = None
    cross_replace: Share | Mapping[str, Share] | None = None
    self_replace: Share | None = None
    amplify: Mapping[str, float] | None = None
    blend: Words | tuple[Words, Words] | None = None
    mask: Any = field(default=None, compare=False, repr=False)
    mask_alpha: MaskAlpha | None = None
    mask_from: MaskFrom | Callable[[Any, tuple[str, ...]], Any] | None = None
    paste_back: bool | None = None
    feather: float | None = None
    seed: int | None = None
    anchor: float | None = None
    detail: float | None = None
    keep_alpha: bool | None = None
    auto: bool | None = None

    def __post_init__(self) -> None:
        checks = {
            "guidance_scale": lambda name, value: _number(name, value, 0.0, MAX_GUIDANCE),
            "tau": _share,
            "tau_low": lambda name, value: _number(name, value, 0.0, 1.0),
            "control": lambda name, value: _one_of(name, value, get_args(Control)),
            "cross_replace": _cross_replace,
            "self_replace": _share,
            "amplify": _amplify,
            "blend": _blend,
            "mask_alpha": lambda name, value: _one_of(name, value, get_args(MaskAlpha)),
            "mask_from": _mask_from,
            "paste_back": _switch,
            "feather": lambda name, value: _number(name, value, 0.0, MAX_FEATHER),
            "seed": _seed,
            "anchor": lambda name, value: _number(name, value, 0.0, 1.0),
            "detail": lambda name, value: _number(name, value, 0.0, 1.0),
            "keep_alpha": _switch,
            "auto": _switch,
        }
        for name, check in checks.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, check(name, value))
        self._check_pairs()

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "EditSettings":
        """Settings from names and values.

        Raises SettingsError on an unknown name, with the nearest known one.
        """
        known = [f.name for f in fields(cls)]
        if not isinstance(values, Mapping):
            raise SettingsError(f"settings must map names to values, not {shown(values)}")
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(shown(name).strip("'"), known, n=1)
                hint = f", did you mean {near[0]!r}?" if near else ""
                raise SettingsError(
                    f"unknown setting {shown(name)}{hint} (known: {', '.join(known)})"
                )
        return cls(**values)

    def resolve(self, defaults: "EditSettings") -> "EditSettings":
        """These settings with every None taken from `defaults`, where `defaults` has a value.

        Windows per word that do not name "default" take the default share of `defaults` for the
        other words.
        """
        values = {
            f.name: getattr(defaults, f.name) for f in fields(self) if getattr(self, f.name) is None
        }
        if isinstance(self.cross_replace, Mapping) and "default" not in self.cross_replace:
            other = defaults.cross_replace
            share = other.get("default") if isinstance(other, Mapping) else other
            if share is not None:
                values["cross_replace"] = {**self.cross_replace, "default": share}
        return self.with_values(values)

    @property
    def from_words(self) -> bool:
        """Whether a mask is made of where words are."""
        return isinstance(self.mask_from, str)

    @property
    def chosen(self) -> frozenset[str]:
        """The fields that are not left open."""
        return frozenset(f.name for f in fields(self) if getattr(self, f.name) is not None)

    def with_values(self, values: Mapping[str, Any]) -> "EditSettings":
        """A copy with some values that are known to be right: each was checked where it was made."""
        changed = copy(self)
        for name, value in values.items():
            object.__setattr__(changed, name, value)
        changed._check_pairs()
        return changed

    def _check_pairs(self) -> None:
        if self.control == "switch" and (self.blend is not None or self.from_words):
            raise SettingsError(
                "control 'switch' has no maps to blend by words: give a mask, or another control"
            )

    def as_dict(self) -> dict[str, Any]:
        """Names and values, the unset ones left out, as `edit(**settings.as_dict())` takes them."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name in self.chosen}
        # Copies: who changes what comes out must not change the settings
        return {name: dict(v) if isinstance(v, Mapping) else v for name, v in values.items()}

    def as_json(self) -> dict[str, Any]:
        """The same as plain values of JSON. A mask, and a function that makes one, are only noted, as
        `"mask": True`."""
        values = self.as_dict()
        if "mask" in values:
            values["mask"] = True
        if callable(self.mask_from):
            values["mask_from"] = True
        return {name: _plain(value) for name, value in values.items()}


def _number(name: str, value: Any, low: float, high: float) -> float:
    if not is_a(value, Real):
        raise SettingsError(f"{name} must be a number, not {shown(value)}")
    if not low <= value <= high:  # false for NaN too
        raise SettingsError(f"{name} must lie in {low:g}..{high:g}, not {shown(value)}")
    return float(value)


def is_a(value: Any, kind: type) -> bool:
    """Whether a value is a number of this kind, numpy's too; a bool is none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _share(name: str, value: Any) -> Share:
    """A share in 0..1, or an ordered pair of them."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise SettingsError(
                f"{name} must be one share or a pair (low, high), not {shown(value)}"
            )
        low, high = (_number(name, v, 0.0, 1.0) for v in value)
        if low > high:
            raise SettingsError(f"{name} must be an ascending pair, not {shown(value)}")
        return low, high
    return _number(name, value, 0.0, 1.0)


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in known:
        raise SettingsError(f"{name} must be one of {', '.join(known)}, not {shown(value)}")
    return str(value)  # numpy's texts are no plain ones


def _mask_from(name: str, value: Any) -> Any:
    if isinstance(value, str) and value in get_args(MaskFrom):
        return str(value)
    if callable(value):
        return value
    raise SettingsError(
        f"{name} must be 'words' or a function (picture, words) -> mask, not {shown(value)}"
    )


def _cross_replace(name: str, value: Any) -> Share | dict[str, Share]:
    if not isinstance(value, Mapping):
        return _share(name, value)
    return {
        _word(name, word): _share(f"{name}[{shown(word)}]", share) for word, share in value.items()
    }


def _amplify(name: str, value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise SettingsError(f"{name} must map words to factors, not {shown(value)}")
    return {
        _word(name, word): _number(f"{name}[{shown(word)}]", factor, -MAX_AMPLIFY, MAX_AMPLIFY)
        for word, factor in value.items()
    }


def _blend(name: str, value: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    # JSON has no tuples: a list that holds lists is a pair as well.
    if isinstance(value, tuple) or (
        isinstance(value, list) and not all(isinstance(v, str) for v in value)
    ):
        if len(value) != 2:
            raise SettingsError(
                f"{name} must be a pair (source words, target words), not {shown(value)}"
            )
        return _words(name, value[0]), _words(name, value[1])
    words = _words(name, value)
    return words, words


def _words(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (_word(name, value),)
    if not isinstance(value, (tuple, list)) or not value:
        raise SettingsError(f"{name} needs a word or a list of words, not {shown(value)}")
    return tuple(_word(name, word) for word in value)


def _word(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise SettingsError(f"{name} needs words that are not empty, not {shown(value)}")
    return str(value)


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise SettingsError(f"{name} must be True or False, not {shown(value)}")
    return value


def _seed(name: str, value: Any) -> int:
    if not is_a(value, Integral):
        raise SettingsError(f"{name} must be a whole number, not {shown(value)}")
    if not 0 <= value < 2**63:
        raise SettingsError(f"{name} must lie in 0..2**63-1, not {shown(value)}")
    return int(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {word: _plain(v) for word, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value


# `settings=` of an edit: "auto", or values that its other arguments go over
GivenSettings = str | EditSettings | Mapping[str, Any] | None
