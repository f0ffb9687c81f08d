"""The configurations of a model's parts: what their fields may hold, and what must agree between
them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icd_engine.bundles.fields import FIELDS, IDLE, check_fields
from icd_engine.errors import BundleError, shown

TRAIN_STEPS = 1000  # diffusers' num_train_timesteps where a scheduler does not say


class PartConfig(dict[str, Any]):
    """The fields of a configuration.

    Asking for one that is not there is a BundleError naming the file.
    """

    def __init__(self, values: Mapping[str, Any], where: object):
        super().__init__(values)
        self._where = where

    def __missing__(self, name: str) -> Any:
        raise BundleError(f"{self._where}: {name!r} is missing")


def train_steps(scheduler: Mapping[str, Any]) -> int:
    """How many time steps a scheduler's configuration has."""
    return scheduler.get("num_train_timesteps", TRAIN_STEPS)


def check_configs(configs: Mapping[str, Mapping[str, Any]], files: Mapping[str, str]) -> None:
    """Raises BundleError naming the first field of the first part that cannot be. A missing one is
    for who reads it.

    configs: by part. files: of each part, as errors name them.
    """
    for part, config in configs.items():
        check_fields(files[part], config, FIELDS[_kind(part)])
        _check_divisions(files[part], config)
    _check_agreement(configs, files)


def check_known(part: str, file: str, config: Mapping[str, Any]) -> None:
    """Raises BundleError naming a field of a UNet or VAE that nothing here knows, and that asks for
    something: what it would change is not known either."""
    kind = _kind(part)
    for name, value in config.items():
        known = name in FIELDS[kind] or name in IDLE[kind] or name.startswith("_")
        if not known and value is not None and value is not False:
            raise BundleError(f"{file}: {name} = {shown(value)} is not known, so not supported")


def _kind(part: str) -> str:
    return part.removesuffix("_2").removesuffix("_forward")


def _check_divisions(file: str, config: Mapping[str, Any]) -> None:
    """Channels are divided into groups and heads, and lists have an entry a level."""
    widths = config.get("block_out_channels", [])
    heads = config.get("attention_head_dim", 1)
    for name in (
        "down_block_types",
        "up_block_types",
        "attention_head_dim",
        "transformer_layers_per_block",
    ):
        if widths and isinstance(config.get(name), list) and len(config[name]) != len(widths):
            raise BundleError(
                f"{file}: {name} has {len(config[name])} entries for {len(widths)} block_out_channels"
            )
    for level, width in enumerate(widths):
        parts = {
            "norm_num_groups": config.get("norm_num_groups", 1),
            "attention_head_dim": heads[level] if isinstance(heads, list) else heads,
        }
        for name, count in parts.items():
            if width % count:
                raise BundleError(f"{file}: {width} channels cannot be divided by {name} {count}")
    if "hidden_size" in config and config["hidden_size"] % config.get("num_attention_heads", 1):
        raise BundleError(f"{file}: hidden_size cannot be divided by num_attention_heads")


def _check_agreement(configs: Mapping[str, Mapping[str, Any]], files: Mapping[str, str]) -> None:
    """What one part gives another must be as wide as that takes."""
    texts = [config for part, config in configs.items() if _kind(part) == "text_encoder"]
    latent = configs["vae"].get("latent_channels")
    for part in ("unet", "unet_forward"):
        wanted = {"in_channels": latent, "out_channels": latent}
        if all("hidden_size" in config for config in texts):
            wanted["cross_attention_dim"] = sum(config["hidden_size"] for config in texts)
        for name, value in wanted.items():
            if value is not None and configs[part].get(name, value) != value:
                raise BundleError(
                    f"{files[part]}: {name} is {configs[part][name]}, but other parts make it {value}"
                )
    length = configs["tokenizer"].get("model_max_length", 0)
    positions = configs["text_encoder"].get("max_position_embeddings", length)
    if length > positions:
        raise BundleError(
            f"{files['tokenizer']}: model_max_length {length} is beyond the text encoder's {positions}"
        )
