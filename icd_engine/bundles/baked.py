"""Styles that a conversion bakes into the files of a model folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from icd_engine.bundles.base import base_weights
from icd_engine.bundles.family import Family
from icd_engine.bundles.layouts import found_shapes
from icd_engine.bundles.lora import Updates, fused
from icd_engine.bundles.styles import (
    UNET,
    UsedStyle,
    bare,
    bare_shapes,
    read_style,
    use_style,
)
from icd_engine.errors import BundleError, shown

if TYPE_CHECKING:
    from torch import Tensor

TABLE = "embeddings.token_embedding.weight"


class StyleFile(NamedTuple):
    """A style that was asked for, see `styles.read_style` and `styles.UsedStyle`."""

    path: str | Path
    scale: float = 1.0
    both: bool = False


class Baked(NamedTuple):
    """Styles as they change the parts of a model folder."""

    styles: Sequence[UsedStyle]

    @property
    def tokens(self) -> list[str]:
        return [token for one in self.styles for token in one.style.tokens]

    def updates(self, part: str) -> Updates:
        """Module -> what is added to it; part: a text encoder, "unet" or "unet_forward"."""
        found: Updates = {}
        for one in self.styles:
            if part != "unet_forward" or one.both:
                for module, pair in one.style.of(UNET if part == "unet_forward" else part).items():
                    found.setdefault(module, []).append((one.scale, pair))
        return found

    def tokenizer(self, text: str) -> str:
        """A tokenizer.json with the tokens. BundleError for one that is there already."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(text)
        for token in self.tokens:
            if tokenizer.token_to_id(token) is not None:
                raise BundleError(f"token {shown(token)} of a style is in the vocabulary already")
            tokenizer.add_tokens([token])
        return tokenizer.to_str(pretty=True)

    def ids(self, text: str) -> dict[str, int]:
        """The ids of the tokens in what `tokenizer` made."""
        from tokenizers import Tokenizer

        vocabulary = Tokenizer.from_str(text).get_vocab()
        return {token: vocabulary[token] for token in self.tokens}

    def text_weights(
        self, part: str, weights: Mapping[str, Tensor], ids: Mapping[str, int]
    ) -> dict[str, Tensor]:
        """A text encoder's weights with updates and vectors, in float32 where they are changed."""
        updates = self.updates(part)
        styled = {}
        for key, weight in weights.items():
            name = bare(key)
            own = updates.get(name.removesuffix(".weight"))
            styled[key] = fused(weight, own) if own and name.endswith(".weight") else weight
            if name == TABLE and ids:
                styled[key] = self._table(part, weight, ids)
        return styled

    def _table(self, part: str, weight: Tensor, ids: Mapping[str, int]) -> Tensor:
        rows = max(len(weight), *(own + 1 for own in ids.values()))
        table = weight.new_zeros(rows, weight.shape[1])
        table[: len(weight)] = weight
        for one in self.styles:
            for token, vector in zip(
                one.style.tokens, one.style.vectors.get(part, ()), strict=True
            ):
                table[ids[token]] = vector.to(table.dtype)
        return table

    @property
    def notes(self) -> list[str]:
        """What a conversion says of them."""
        said = []
        for one in self.styles:
            if one.style.tokens:
                count = len(one.style.tokens)
                vectors = "1 vector" if count == 1 else f"{count} vectors"
                said.append(f"{one.style.name} adds the token {one.style.tokens[0]} ({vectors})")
            else:
                where = "both networks" if one.both else "the decode network"
                said.append(f"{one.style.name} is on {where} at {one.scale:g}")
        return said


def baked(
    files: Sequence[StyleFile],
    base: Path,
    family: Family,
    unet_shapes: Mapping[str, tuple[int, ...]],
    unet_config: Mapping[str, Any],
) -> Baked:
    """Reads styles for a model that is converted. BundleError, SettingsError."""
    if not files:
        return Baked(())
    found = base_weights(base, family)
    shapes = {part: found_shapes(own) for part, own in found.items() if part.startswith("text")}
    shapes = bare_shapes({UNET: dict(unet_shapes), **shapes})
    used = []
    for asked in files:
        style = read_style(asked.path, shapes, unet_config)
        if not asked.both and any(part != UNET for part in style.updates):
            raise BundleError(
                f"{style.name} updates text encoders, which both networks of a model folder share: "
                "put it on both (--style-both), or on at each edit (icd edit --style)"
            )
        if any(style.name == one.style.name for one in used):
            raise BundleError(f"style {shown(style.name)} is given twice")
        used.append(use_style(style, asked.scale, asked.both))
    return Baked(used)
