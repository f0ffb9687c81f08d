"""Files of textual inversion: vectors of a token that is added to the vocabulary, as diffusers and
others write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from icd_engine.bundles.files import check_finite
from icd_engine.bundles.layouts import load_pickle, read_state
from icd_engine.errors import BundleError, shown

if TYPE_CHECKING:
    from torch import Tensor

# SDXL's files hold a vector for each text encoder
BY_ENCODER = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
NAMELESS = ("emb_params", "*")  # keys that are no token
MOST_VECTORS = 75


class Vectors(NamedTuple):
    """tokens: `<cat>`, `<cat>_1`, ..., one a vector. by_part: text encoder -> [tokens, C] float32."""

    tokens: tuple[str, ...]
    by_part: dict[str, Tensor]


def read_vectors(path: Path, widths: Mapping[str, int], token: str | None) -> Vectors | None:
    """The vectors in a file, or None where it holds something else.

    widths: text encoder -> C. token: its name, else the file's own, else that of the file. Raises
    BundleError naming the file where they do not fit the text encoders.
    """
    found = _found(read_state(path) if path.suffix == ".safetensors" else load_pickle(path))
    if found is None:
        return None
    given, name = found
    name = token or name or path.stem
    if not name.strip() or any(c.isspace() for c in name):
        raise BundleError(f"{path.name}: {shown(name)} cannot be the name of a token")
    parts = given if given.keys() <= widths.keys() else {}
    if parts.keys() != widths.keys():
        raise BundleError(
            f"{path.name} has vectors for {', '.join(sorted(given))}, and the model has "
            f"{', '.join(widths)}"
        )
    counts = {len(own) for own in parts.values()}
    for part, own in parts.items():
        if own.shape[-1] != widths[part]:
            raise BundleError(
                f"{path.name}: vectors of {own.shape[-1]} numbers, and those of {part} have "
                f"{widths[part]}"
            )
    if len(counts) != 1 or not 0 < min(counts) <= MOST_VECTORS:
        raise BundleError(f"{path.name}: a token has 1 to {MOST_VECTORS} vectors, not {counts}")
    check_finite(parts, path.name)
    more = [f"{name}_{i}" for i in range(1, min(counts))]
    return Vectors((name, *more), parts)


def _found(state: Any) -> tuple[dict[str, Tensor], str | None] | None:
    """Text encoder -> vectors, and the token that the file names."""
    if not isinstance(state, Mapping):
        return None
    if "string_to_param" in state:
        inner = _found(state["string_to_param"])
        name = state.get("name")
        return inner and (inner[0], name if isinstance(name, str) else None)
    if state and state.keys() <= BY_ENCODER.keys():
        parts = {BY_ENCODER[key]: _rows(value) for key, value in state.items()}
        return None if None in parts.values() else ({**parts}, None)  # pyright: ignore
    if len(state) != 1:
        return None
    key, value = next(iter(state.items()))
    rows = _rows(value)
    if rows is None or not isinstance(key, str) or "lora" in key:
        return None
    return {"text_encoder": rows}, None if key in NAMELESS else key


def _rows(value: Any) -> Tensor | None:
    """Vectors [k, C] float32; None for what is no vector."""
    import torch

    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return None
    if not 1 <= value.ndim <= 2:
        return None
    return value.detach().float().reshape(-1, value.shape[-1])
