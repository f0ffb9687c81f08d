"""What each field of a part's configuration may hold: what can be read, and what networks are built
for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from icd_engine.errors import BundleError, shown

MOST_CHANNELS = 2**15
MOST_LEVELS = 8
MOST_LAYERS = 128


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

# What the UNet is built for and no other: another value makes another network of the same weights.
UNET_FIXED = {
    "_class_name": _one_of("UNet2DConditionModel"),
    "act_fn": _one_of("silu"),
    "attention_type": _one_of("default"),
    **dict.fromkeys(("conv_in_kernel", "conv_out_kernel"), _one_of(3)),
    **dict.fromkeys(("downsample_padding", "mid_block_scale_factor"), _one_of(1)),
    "flip_sin_to_cos": _one_of(True),
    "freq_shift": _one_of(0),
    "mid_block_type": _one_of("UNetMidBlock2DCrossAttn"),
    "resnet_out_scale_factor": _one_of(1.0),
    "resnet_time_scale_shift": _one_of("default"),
    "time_embedding_type": _one_of("positional"),
    **dict.fromkeys(
        (
            *("center_input_sample", "class_embeddings_concat", "dual_cross_attention"),
            *("mid_block_only_cross_attention", "only_cross_attention", "resnet_skip_time_act"),
        ),
        _one_of(False, None),
    ),
    **dict.fromkeys(
        (
            *("class_embed_type", "cross_attention_norm", "encoder_hid_dim"),
            *("encoder_hid_dim_type", "num_attention_heads", "num_class_embeds"),
            *("reverse_transformer_layers_per_block", "time_embedding_act_fn"),
            *("time_embedding_dim", "timestep_post_act"),
        ),
        NOTHING,
    ),
}
# Fields that change nothing here: training's, and those of which another field says whether they count.
IDLE = {
    "unet": {"sample_size", "dropout", "addition_embed_type_num_heads"},
    "vae": {"force_upcast"},
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
        "_class_name": _one_of("AutoencoderKL"),
        "down_block_types": _list_of(_one_of("DownEncoderBlock2D")),
        "up_block_types": _list_of(_one_of("UpDecoderBlock2D")),
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
        **UNET_FIXED,
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
        "down_block_types": _list_of(_one_of("DownBlock2D", "CrossAttnDownBlock2D")),
        "up_block_types": _list_of(_one_of("UpBlock2D", "CrossAttnUpBlock2D")),
        "use_linear_projection": SWITCH,
        "upcast_attention": _either(
            SWITCH, NOTHING
        ),  # of SD 2.1; attention maps are float32 anyway
    },
}


def check_fields(file: str, config: Mapping[str, Any], fields: Mapping[str, Field]) -> None:
    """Raises BundleError naming the first of these fields that is there and cannot be."""
    for name, field in fields.items():
        if name in config and not field.fits(config[name]):
            raise BundleError(f"{file}: {name} must be {field.wanted}, not {shown(config[name])}")
