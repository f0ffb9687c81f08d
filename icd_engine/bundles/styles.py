"""Styles: a user's own LoRA for UNet and text encoders, or vectors of tokens that are added to the
vocabulary (textual inversion). Keys are understood as diffusers and peft understand them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icd_engine.bundles.files import file_digest
from icd_engine.bundles.layouts import read_state
from icd_engine.bundles.lora import LoraPair, lora_pair
from icd_engine.bundles.lora_scale import LoraScales, read_scales
from icd_engine.bundles.vectors import read_vectors
from icd_engine.errors import BundleError, SettingsError, shown

if TYPE_CHECKING:
    from torch import Tensor

UNET = "unet"
TEXT_MODEL = "text_model."  # a prefix of modules that transformers' versions have or have not
PEFT_ROOT = "base_model.model."
MOST_SCALE = 100.0
ALPHA_SUFFIX = ".alpha"
FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<role>[AB])(?:\.default)?\.weight")
ROLES = {"A": "down", "B": "up"}
# Other kinds of updates than two factors, told by their keys
OTHER_KINDS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_w": "LoHa",
    "lokr_w": "LoKr",
    "lora_mid": "LoCon with a core tensor",
    "oft_": "OFT",
}
NO_SCALES = LoraScales("", {}, {}, None, assumed=None)  # pickles have no header
# Part -> key of a weight -> its shape; of text encoders without `text_model.`
Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Style:
    """What a file of a style holds.

    name: of the file. digest: its SHA-256. updates: part -> module -> update, text encoders' modules
    without `text_model.`. tokens: names of the tokens that it adds, of which the first is what
    prompts say. vectors: text encoder -> [tokens, C].
    """

    name: str
    digest: str
    updates: Mapping[str, Mapping[str, LoraPair]] = field(default_factory=dict, repr=False)
    tokens: tuple[str, ...] = ()
    vectors: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def of(self, part: str) -> Mapping[str, LoraPair]:
        """Module -> update of a part; none of one that it leaves alone."""
        return self.updates.get(part, {})


@dataclass(frozen=True)
class UsedStyle:
    """A style, how strongly it is on, and whether on both networks instead of the decode one."""

    style: Style
    scale: float = 1.0
    both: bool = False

    @property
    def record(self) -> dict[str, Any]:
        """What is written down of it."""
        about: dict[str, Any] = {"file": self.style.name, "sha256": self.style.digest}
        if self.style.tokens:
            return about | {"tokens": list(self.style.tokens)}
        return about | {"scale": self.scale, "networks": "both" if self.both else "decode"}

    def changes_encoding(self, added: tuple[str, ...]) -> bool:
        """Whether encoding with a prompt that has these added tokens is another with it."""
        if self.style.tokens:
            return self.style.tokens[0] in added
        return self.both and self.scale != 0


def use_style(style: Style, scale: float = 1.0, both: bool = False) -> UsedStyle:
    """Raises SettingsError for a scale that is none."""
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not number or not abs(scale) <= MOST_SCALE:
        raise SettingsError(
            f"{style.name}: a style's scale is a number in -{MOST_SCALE:g}..{MOST_SCALE:g}, "
            f"not {shown(scale)}"
        )
    if style.tokens and scale != 1:
        raise SettingsError(
            f"{style.name} holds vectors of {style.tokens[0]!r}, which have no scale: leave it at 1"
        )
    return UsedStyle(style, float(scale), both)


def read_style(
    path: str | Path, shapes: Shapes, unet_config: Mapping[str, Any], token: str | None = None
) -> Style:
    """Reads a style for networks with these weight shapes.

    path: a file of tensors (safetensors, or a pickle by torch's weights-only reader), or a folder
    with one of them. token: what a token that the file adds is called. Raises BundleError naming the
    file, and every key that fits none of the networks.
    """
    path = _file(Path(path))
    widths = {
        part: own["embeddings.token_embedding.weight"][1]
        for part, own in shapes.items()
        if part != UNET
    }
    found = read_vectors(path, widths, token)
    if found is not None:
        return Style(path.name, file_digest(path), tokens=found.tokens, vectors=found.by_part)
    if token is not None:
        raise BundleError(
            f"{path.name} is a LoRA and adds no token: {shown(token)} cannot name one"
        )
    return Style(path.name, file_digest(path), _updates(path, shapes, unet_config))


def bare_shapes(shapes: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes by part as `read_style` takes them, of weights in any version's names."""
    return {
        part: {(key if part == UNET else bare(key)): shape for key, shape in own.items()}
        for part, own in shapes.items()
    }


def bare(key: str) -> str:
    """A text encoder's key or module, without the prefix that some versions have."""
    return key.removeprefix(TEXT_MODEL)


def _file(path: Path) -> Path:
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if len(files) != 1:
            names = ", ".join(file.name for file in files) or "none"
            raise BundleError(f"{path}: a style is one safetensors file, found {names}")
        return files[0]
    if not path.is_file():
        raise BundleError(f"{path}: no such style file")
    return path


def _updates(
    path: Path, shapes: Shapes, unet_config: Mapping[str, Any]
) -> dict[str, dict[str, LoraPair]]:
    tensors = read_state(path)
    for key in sorted(tensors):
        for mark, kind in OTHER_KINDS.items():
            if mark in key:
                raise BundleError(f"{path.name}: {key!r} is of {kind}, and only LoRA is supported")
    alphas = {key.removesuffix(ALPHA_SUFFIX): key for key in tensors if key.endswith(ALPHA_SUFFIX)}
    weights = {key: value for key, value in tensors.items() if not key.endswith(ALPHA_SUFFIX)}
    if not weights:
        raise BundleError(f"{path.name} holds no LoRA weights")
    # Conversion hands the same tensors on: each still tells which key it came of
    given = {id(value): key for key, value in weights.items()}
    parts: dict[str, dict[str, dict[str, str]]] = {}
    unmatched = []
    for key, value in _peft_keys(path, weights, unet_config).items():
        part, _, name = key.partition(".")
        match = FACTOR.fullmatch(name)
        module = match["module"] if match else ""
        of_weight = f"{module if part == UNET else bare(module)}.weight"
        if match is None or of_weight not in shapes.get(part, {}):
            unmatched.append(given[id(value)])
            continue
        parts.setdefault(part, {}).setdefault(module, {})[ROLES[match["role"]]] = given[id(value)]
    used = set()
    for keys in (keys for own in parts.values() for keys in own.values()):
        for name in tuple(keys.values()):
            if (base := _alpha_base(name, alphas)) is not None:
                keys["alpha"] = alphas[base]
                used.add(base)
    unmatched += [key for base, key in alphas.items() if base not in used]
    if unmatched:
        raise BundleError(f"{path.name}: no module of the networks belongs to {_listed(unmatched)}")
    return {part: _pairs(path, tensors, part, own, shapes[part]) for part, own in parts.items()}


def _alpha_base(key: str, alphas: Mapping[str, str]) -> str | None:
    """What the key of a factor and that of its alpha have in common."""
    ends = [i for i, c in enumerate(key) if c == "."]
    return next((key[:end] for end in ends if key[:end] in alphas), None)


def _listed(keys: list[str]) -> str:
    named = ", ".join(repr(key) for key in sorted(keys)[:5])
    return named if len(keys) <= 5 else f"{named} and {len(keys) - 5} more"


def _pairs(
    path: Path,
    tensors: Mapping[str, Tensor],
    part: str,
    modules: Mapping[str, Mapping[str, str]],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, LoraPair]:
    scales = read_scales(path, part, assumed=None) if path.suffix == ".safetensors" else NO_SCALES
    pairs = {}
    for module, keys in modules.items():
        own = module if part == UNET else bare(module)
        pairs[own] = lora_pair(path, tensors, module, keys, shapes[f"{own}.weight"], scales)
    return pairs


def _peft_keys(
    path: Path, weights: Mapping[str, Tensor], unet_config: Mapping[str, Any]
) -> dict[str, Tensor]:
    """`<part>.<module>.lora_A.weight` and `lora_B`, by diffusers' own conversions."""
    from diffusers.configuration_utils import FrozenDict
    from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
    from diffusers.utils import (
        convert_state_dict_to_diffusers,
        convert_state_dict_to_peft,
        convert_unet_state_dict_to_peft,
    )
    from diffusers.utils.state_dict_utils import StateDictType

    try:
        # SDXL's is StableDiffusion's, and knows the block numbers of the original code too
        state = StableDiffusionXLLoraLoaderMixin.lora_state_dict(
            dict(weights), unet_config=FrozenDict(unet_config)
        )[0]
    except (ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BundleError(f"{path.name}: its keys are of no known style: {reason}") from None
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        part, name = _part_of(key)
        parts.setdefault(part, {})[name] = value
    converted = {}
    for part, own in parts.items():
        if part == UNET:
            own = convert_unet_state_dict_to_peft(own)
        elif not all(FACTOR.fullmatch(name) for name in own):
            # Told which names these are: else it is guessed from those of all modules together
            own = convert_state_dict_to_diffusers(own, original_type=StateDictType.DIFFUSERS_OLD)
            own = convert_state_dict_to_peft(own, original_type=StateDictType.DIFFUSERS)
        converted |= {f"{part}.{name}": value for name, value in own.items()}
    if len(converted) != len(weights):
        raise BundleError(f"{path.name}: some of its keys stand for the same weight")
    return converted


def _part_of(key: str) -> tuple[str, str]:
    """The part that a key belongs to, and what it is called there: pipelines name their parts, peft's
    own files and networks that save themselves do not."""
    first, _, rest = key.partition(".")
    if first == UNET or first.startswith("text_encoder"):
        return first, rest.removeprefix(PEFT_ROOT)
    own = key.removeprefix(PEFT_ROOT)
    of_text = own.startswith((TEXT_MODEL, "encoder.layers."))
    return ("text_encoder" if of_text else UNET), own
