"""The guidance-distilled teacher: a UNet's plain state dict, read without running a pickle and held
to the base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import is_zipfile

from icd_engine.bundles.family import DIFFUSERS_WEIGHTS
from icd_engine.bundles.files import check_finite, read_weights, require_file
from icd_engine.errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor

COND_PROJ = "time_embedding.cond_proj.weight"


def teacher_file(teacher: Path) -> Path:
    """The weight file of a teacher given as a file, as a UNet folder or as a folder that holds
    `unet/`."""
    if not teacher.is_dir():
        return teacher
    folder = teacher / "unet" if (teacher / "unet").is_dir() else teacher
    try:
        return require_file(folder, DIFFUSERS_WEIGHTS)
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from error


def read_teacher(path: Path) -> dict[str, Tensor]:
    """A plain state dict in the file's own precision, mapped from the file where that can be.

    A pickle is read with torch's weights-only loader: nothing in it is ever run. Raises BundleError
    naming the file, and the key where it is no plain tensor.
    """
    if path.suffix == ".safetensors":
        return read_weights(path)
    import torch

    if not path.is_file():
        raise BundleError(f"{path} is missing")
    try:
        # Mapped, it takes no memory of its own; torch's format before 1.6 cannot be.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except Exception as error:  # a damaged or hostile file may raise anything; none of it is ours
        raise BundleError(
            f"{path} is damaged or holds more than tensors: refused, nothing in it was run"
        ) from error
    if not isinstance(state, Mapping):
        raise BundleError(f"{path} must hold a state dict, not a {type(state).__name__}")
    for key, value in state.items():
        plain = (
            isinstance(key, str)
            and isinstance(value, torch.Tensor)
            and value.layout == torch.strided
        )
        if not plain or value.device.type != "cpu" or not value.is_floating_point():
            raise BundleError(f"{path.name}: {key!r} is not a plain tensor of numbers")
    return {key: value.detach() for key, value in state.items()}


def check_teacher(
    name: str, weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> int:
    """The width of the guidance embedding.

    Raises BundleError naming the key that does not fit the base's UNet.
    """
    if COND_PROJ not in weights:
        raise BundleError(
            f"{name}: {COND_PROJ!r} is missing: this network is not guidance-distilled"
        )
    width = weights[COND_PROJ].shape[-1] if weights[COND_PROJ].ndim == 2 else 0
    expected = {**shapes, COND_PROJ: (shapes.get("conv_in.weight", (0,))[0], width)}
    for key in sorted(expected.keys() | weights.keys()):
        if key not in weights:
            raise BundleError(f"{name}: {key!r} is missing")
        if key not in expected:
            raise BundleError(f"{name}: {key!r} is not a weight of the base's UNet")
        shape = tuple(weights[key].shape)
        if shape != expected[key] or 0 in shape:
            raise BundleError(f"{name}: {key!r} has shape {list(shape)}, not {list(expected[key])}")
    check_finite(weights, name)
    return width
