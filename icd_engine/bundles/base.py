"""The base of a conversion, a diffusers folder: what must hold before anything is made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icd_engine.bundles.configs import check_configs, check_known
from icd_engine.bundles.family import Family, read_family
from icd_engine.bundles.files import read_json, require_file
from icd_engine.bundles.layouts import WeightFiles, find_weights, found_shapes
from icd_engine.errors import BundleError, SettingsError
from icd_engine.sampling.schedule import NoiseSchedule

SCHEDULER = "scheduler/scheduler_config.json"


def read_base(
    base: Path,
) -> tuple[Family, dict[str, Any], dict[str, tuple[int, ...]], dict[str, Any]]:
    """(family, UNet configuration, UNet weight shapes, scheduler configuration) of a diffusers
    folder with every part in place. The UNet's weights are not used: where there are none, the
    shapes are those of its configuration.

    Raises BundleError naming the file and the field.
    """
    try:
        family = read_family(base)
        for part, name in family.configs.items():
            if part != "unet_forward":
                require_file(base, f"{part}/{name}")
        found = base_weights(base, family)
        _check_base(base, family)
        config = read_json(base, "unet/config.json")
        shapes = found_shapes(found["unet"]) if "unet" in found else _shapes_of(config)
        return family, config, shapes, read_json(base, SCHEDULER)
    except BundleError as error:
        raise BundleError(f"{base}: {error}") from error


def base_weights(base: Path, family: Family) -> dict[str, WeightFiles]:
    """Part -> its weights, of every network that a base has; the UNet may have its configuration
    alone. BundleError for one that is missing."""
    parts = {part: name for part, name in family.weights.items() if part != "unet_forward"}
    if [path.name for path in (base / "unet").iterdir()] == ["config.json"]:
        del parts["unet"]
    return {part: find_weights(base / part, name) for part, name in parts.items()}


def layout_notes(base: Path, family: Family) -> list[str]:
    """What of a base's weights that are copied lay elsewhere than in the file of full precision."""
    found = base_weights(base, family)
    return [
        f"{part} read from {own.name.name}"
        for part, own in found.items()
        if part != "unet" and own.name.name != family.weights[part]
    ]


def _shapes_of(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Key -> shape of the UNet that diffusers makes of a configuration; no weight is made."""
    import torch
    from diffusers import UNet2DConditionModel

    try:
        with torch.device("meta"):
            unet: Any = UNet2DConditionModel.from_config(dict(config))
    except Exception as error:  # whatever the fields together do to its constructor
        reason = " ".join(str(error).split())
        raise BundleError(f"unet/config.json: no network can be made of it: {reason}") from None
    return {key: tuple(value.shape) for key, value in unet.state_dict().items()}


def _check_base(base: Path, family: Family) -> None:
    """Raises BundleError where the configurations do not fit each other, before anything is
    written."""
    files = {part: f"{part}/{name}" for part, name in family.configs.items()}
    files["unet_forward"] = files["unet"]  # a base has one network, which becomes both
    configs = {part: read_json(base, name) for part, name in files.items()}
    check_configs(configs, files)
    for part in ("unet", "vae"):
        check_known(part, files[part], configs[part])


def check_noise(
    base: Path, scheduler: Mapping[str, Any], encode: Sequence[int], decode: Sequence[int]
) -> None:
    """Raises BundleError unless the scheduler's noise lets the networks hop between their time
    steps; both ascend."""
    try:
        schedule = NoiseSchedule.from_config(scheduler)
        schedule.encode_hops(encode, decode[-1])
        schedule.decode_hops(decode)
    except SettingsError as error:
        raise BundleError(f"{base}: {SCHEDULER}: {error}") from None


def picture_size(base: Path, unet_config: Mapping[str, Any]) -> list[int]:
    """[width, height] of the pictures that the base works at."""
    side = unet_config.get("sample_size")
    blocks = read_json(base, "vae/config.json").get("block_out_channels")
    if not isinstance(side, int) or not isinstance(blocks, list):
        raise BundleError(
            f"{base}: unet/config.json sample_size or vae/config.json block_out_channels is unusable"
        )
    return [side * 2 ** (len(blocks) - 1)] * 2
