"""The configurations of a model's parts: what their fields may hold, and what must agree between
them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from icd_engine.errors import BundleError, shown

MOST_CHANNELS = 2**15
MOST_LEVELS = 8
MOST_LAYERS = 128
TRAIN_STEPS = 1000  # diffusers' num_train_timesteps where a scheduler does not say


class Field(NamedTuple):
    """What a field must be, in words and as a test."""

    wanted: str
    fits: Callable[[Any], bool]


def _whole(low: int, high: int) -> Field:
    def fits(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return Field(f"a whole number in {low}..{high}", fits)


def _above_zero(high: float) -> Field:
    def fits(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= high

    return Field(f"a number above 0, at most {high:g}", fits)


def _list_of(field: Field) -> Field:
    def fits(value: Any) -> bool:
        return (
            isinstance(value, list)
            and 0 < len(value) <= MOST_LEVELS
            and all(map(field.fits, value))
        )

    return Field(f"a list of up to {MOST_LEVELS}, each {field.wanted}", fits)


def _one_of(*known: Any) -> Field:
    wanted = " or ".join(repr(value) for value in known)

    def fits(value: Any) -> bool:
        # 1.0 is 1 to a network, but true is neither
        return any(
            value == one and isinstance(value, bool) == isinstance(one, bool) for one in known
        )

    return Field(wanted, fits)


def _either(*fields: Field) -> Field:
    wanted = " or ".join(field.wanted for field in fields)
    return Field(wanted, lambda value: any(field.fits(value) for field in fields))


TEXT = Field("a text", lambda value: isinstance(value, str))
SWITCH = Field("true or false", lambda value: isinstance(value, bool))
NOTHING = Field("null", lambda value: value is None)
OBJECT = Field("an object", lambda value: isinstance(value, dict))
CHANNELS = _whole(1, MOST_CHANNELS)
LAYERS = _whole(1, MOST_LAYERS)
TOKENS = _whole(0, 2**20)
IMAGES = {
    "block_out_channels": _list_of(CHANNELS),
    "layers_per_block": LAYERS,
    "norm_num_groups": CHANNELS,
}

# By the part's name without "_2" and "_forward". Fields that are not here are not read, or checked
# where they are.
FIELDS: dict[str, dict[str, Field]] = {
    "tokenizer": {"model_max_length": _whole(3, 4096), "pad_token": _either(TEXT, OBJECT, NOTHING)},
    "scheduler": {
        "beta_start": _above_zero(1),
        "beta_end": _above_zero(1),
        "num_train_timesteps": _whole(2, 10**5),
        "prediction_type": _one_of("epsilon", "v_prediction"),
        "rescale_betas_zero_snr": _either(SWITCH, NOTHING),
        # Fields that make another noise than betas alone do
        "timestep_type": _one_of("discrete"),
        "use_flow_sigmas": _one_of(False, None),
        "snr_shift_scale": _one_of(1.0, None),
    },
    "text_encoder": {
        **dict.fromkeys(("hidden_size", "num_attention_heads"), CHANNELS),
        "intermediate_size": _whole(1, 8 * MOST_CHANNELS),
        "vocab_size": _whole(1, 2**20),
        "num_hidden_layers": LAYERS,
        "max_position_embeddings": _whole(3, 4096),
        "projection_dim": _either(CHANNELS, NOTHING),
        "hidden_act": _one_of(
            "quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu"
        ),
        "layer_norm_eps": _above_zero(1),
        "eos_token_id": TOKENS,  # where SDXL's pooled features are read
        **dict.fromkeys(("bos_token_id", "pad_token_id"), _either(TOKENS, NOTHING)),
    },
    "vae": {
        **IMAGES,
        **dict.fromkeys(("in_channels", "out_channels"), _whole(3, 3)),
        "act_fn": _one_of("silu"),
        "latent_channels": _whole(1, 64),
        "scaling_factor": _above_zero(1000),
        "sample_size": _whole(8, 2**16),
        **dict.fromkeys(
            ("mid_block_add_attention", "use_quant_conv", "use_post_quant_conv"), SWITCH
        ),
        **dict.fromkeys(("shift_factor", "latents_mean", "latents_std"), NOTHING),
    },
    "unet": {
        **IMAGES,
        **dict.fromkeys(("in_channels", "out_channels"), _whole(1, 64)),
        "norm_eps": _above_zero(1),
        "cross_attention_dim": CHANNELS,
        "attention_head_dim": _either(CHANNELS, _list_of(CHANNELS)),
        "transformer_layers_per_block": _either(LAYERS, _list_of(LAYERS)),
        "time_cond_proj_dim": _either(_whole(4, MOST_CHANNELS), NOTHING),
        "addition_time_embed_dim": _either(CHANNELS, NOTHING),
        "addition_embed_type": _one_of(None, "text_time"),
        "projection_class_embeddings_input_dim": _either(_whole(1, 2**20), NOTHING),
        **dict.fromkeys(("down_block_types", "up_block_types"), _list_of(TEXT)),
        "use_linear_projection": SWITCH,
    },
}


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
        for name, field in FIELDS[_kind(part)].items():
            if name in config and not field.fits(config[name]):
                raise BundleError(
                    f"{files[part]}: {name} must be {field.wanted}, not {shown(config[name])}"
                )
        _check_divisions(files[part], config)
    _check_agreement(configs, files)


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
