"""Files of kept inversions: safetensors with the latents that encoding passed, and what they are
of."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from icd_engine.atomic import write_whole
from icd_engine.errors import BundleError, SettingsError
from icd_engine.picture_files import MAX_PIXELS, limit

# Files of format 1 hold the last latents alone; their edits are not anchored.
FORMATS = ("1", "2")
NOISED = "latents"
BOUNDARIES = "boundaries"


class InversionFile(NamedTuple):
    """What is in a file. noised: [1, 4, h, w] float32. boundaries: [K, 4, h, w] float32, None where
    encoding did not pass them or the file is of format 1. size, picture_size: (width, height). model:
    the fingerprint of what encoded it."""

    noised: np.ndarray
    boundaries: np.ndarray | None
    source: str
    seed: int
    size: tuple[int, int]
    picture_size: tuple[int, int]
    model: str


def write_inversion_file(path: str | Path, held: InversionFile) -> Path:
    """Writes it, atomically. SettingsError where that cannot be."""
    from safetensors.numpy import save

    arrays = {NOISED: np.ascontiguousarray(held.noised)}
    if held.boundaries is not None:
        arrays[BOUNDARIES] = np.ascontiguousarray(held.boundaries)
    about = {name: getattr(held, name) for name in ("source", "seed", "size", "picture_size")}
    metadata = {
        "icd_inversion": FORMATS[-1],
        "model": held.model,
        "about": json.dumps(about),
        "sha256": _digest(arrays),
    }
    return write_whole(path, save(arrays, metadata), SettingsError)


def read_inversion_file(path: str | Path, decode_hops: int) -> InversionFile:
    """Reads it. BundleError if it is damaged; shapes are whole, and the caller knows whether they and
    the fingerprint fit the model."""
    from safetensors import SafetensorError, safe_open

    if os.path.isdir(path):
        raise BundleError(f"{path} is a folder, not a saved inversion")
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(metadata["about"])
        size = _pair(about["size"])
        held = InversionFile(
            arrays[NOISED],
            arrays.get(BOUNDARIES),
            str(about["source"]),
            int(about["seed"]),
            size,
            _pair(about.get("picture_size", size)),  # files of older versions have one size
            str(metadata.get("model")),
        )
    except FileNotFoundError:
        raise BundleError(f"{path}: no such inversion file") from None
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, IndexError):
        raise BundleError(f"{path} is not a saved inversion, or damaged") from None
    known = metadata.get("icd_inversion") in FORMATS
    if not known or metadata.get("sha256") != _digest(arrays):
        raise BundleError(f"{path} is not a saved inversion, or damaged")
    if not _is_whole(held, decode_hops):
        raise BundleError(f"{path} holds latents of a wrong shape or value")
    return held


def _is_whole(held: InversionFile, decode_hops: int) -> bool:
    width, height = held.picture_size
    if min(width, height) < 1 or width * height > limit("PIXELS", MAX_PIXELS):
        return False
    latents = [held.noised] if held.boundaries is None else [held.noised, held.boundaries]
    counts = [1, decode_hops]
    return all(
        own.ndim == 4
        and own.shape == (count, *held.noised.shape[1:])
        and own.dtype == np.float32
        and bool(np.isfinite(own).all())
        for own, count in zip(latents, counts, strict=False)
    )


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Of the values, in the order of the names; of one array it is the digest of its bytes."""
    digest = hashlib.sha256()
    for name in sorted(arrays, key=lambda name: (name != NOISED, name)):
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _pair(values: Sequence[Any]) -> tuple[int, int]:
    width, height = (int(value) for value in values)
    return width, height
