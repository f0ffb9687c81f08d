"""The guidance-distilled teacher: a UNet's plain state dict, read without running a pickle and held
to the base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from icd_engine.bundles.family import DIFFUSERS_WEIGHTS
from icd_engine.bundles.files import check_finite
from icd_engine.bundles.layouts import WeightFiles, find_weights, single
from icd_engine.errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor

COND_PROJ = "time_embedding.cond_proj.weight"


def teacher_file(teacher: Path) -> WeightFiles:
    """The weights of a teacher given as a file, as a UNet folder or as a folder that holds
    `unet/`."""
    if not teacher.is_dir():
        return single(teacher)
    folder = teacher / "unet" if (teacher / "unet").is_dir() else teacher
    try:
        return find_weights(folder, DIFFUSERS_WEIGHTS)
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from error


def check_teacher(
    name: str, weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> int:
    """The width of the guidance embedding.

    Raises BundleError naming the key that does not fit the base's UNet.
    """
    if any(key.startswith("model.diffusion_model.") for key in weights):
        raise BundleError(
            f"{name} is a single-file checkpoint, and a teacher is a UNet with diffusers' keys: "
            "diffusers makes one by UNet2DConditionModel.from_single_file(FILE).save_pretrained(FOLDER)"
        )
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
