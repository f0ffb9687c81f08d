"""Every field of diffusers' UNet and VAE is read, held to a value, or of no effect; every other value
is refused in `convert`, by name."""

import inspect
import json

import pytest

from icd_engine.bundles.convert import convert
from icd_engine.bundles.fields import FIELDS, IDLE, UNET_FIXED
from icd_engine.errors import BundleError

diffusers = pytest.importorskip("diffusers")

# Of each fixed field, what other models ask for; fields that may be of any number are not here.
OTHERS = {
    "unet": {
        "_class_name": "UNet3DConditionModel",
        "act_fn": "gelu",
        "attention_type": "gated",
        "conv_in_kernel": 1,
        "conv_out_kernel": 5,
        "downsample_padding": 0,
        "mid_block_scale_factor": 2**0.5,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "resnet_out_scale_factor": 0.5,
        "resnet_time_scale_shift": "scale_shift",
        "time_embedding_type": "fourier",
        "center_input_sample": True,
        "class_embeddings_concat": True,
        "dual_cross_attention": True,
        "mid_block_only_cross_attention": True,
        "only_cross_attention": [True, True, True, False],
        "resnet_skip_time_act": True,
        "class_embed_type": "timestep",
        "cross_attention_norm": "layer_norm",
        "encoder_hid_dim": 768,
        "encoder_hid_dim_type": "text_proj",
        "num_attention_heads": 4,
        "num_class_embeds": 10,
        "reverse_transformer_layers_per_block": [1, 1, 1, 1],
        "time_embedding_act_fn": "silu",
        "time_embedding_dim": 64,
        "timestep_post_act": "silu",
        "down_block_types": ["AttnDownBlock2D"] * 4,
        "up_block_types": ["SimpleCrossAttnUpBlock2D"] * 4,
        "a_field_of_tomorrow": 2,
    },
    "vae": {
        "_class_name": "AsymmetricAutoencoderKL",
        "act_fn": "gelu",
        "down_block_types": ["AttnDownEncoderBlock2D"] * 4,
        "up_block_types": ["AttnUpDecoderBlock2D"] * 4,
        "shift_factor": 0.1,
        "latents_mean": [0.0] * 4,
        "latents_std": [1.0] * 4,
        "a_field_of_tomorrow": True,
    },
}


@pytest.mark.parametrize(
    ("part", "kind"),
    [("unet", diffusers.UNet2DConditionModel), ("vae", diffusers.AutoencoderKL)],
)
def test_every_field_of_diffusers_is_known(part, kind):
    names = set(inspect.signature(kind.__init__).parameters) - {"self", "kwargs"}
    assert names <= FIELDS[part].keys() | IDLE[part]


def test_every_fixed_field_is_tried():
    assert UNET_FIXED.keys() <= OTHERS["unet"].keys()


@pytest.mark.parametrize(
    ("part", "name"), [(part, name) for part, own in OTHERS.items() for name in own]
)
def test_another_value_is_refused_before_anything_is_written(published, part, name):
    path = published["base"] / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: OTHERS[part][name]}))
    with pytest.raises(BundleError, match=rf"{part}/config\.json: {name} ") as caught:
        convert(**published)
    assert "\n" not in str(caught.value)
    assert not list(published["out"].parent.iterdir())


def test_values_that_ask_for_nothing_convert(published):
    """null and false where diffusers takes either, and 1.0 for 1."""
    path = published["base"] / "unet" / "config.json"
    fields = {
        "upcast_attention": None,
        "dual_cross_attention": None,
        "mid_block_scale_factor": 1.0,
        "a_field_of_tomorrow": None,
        "_name_or_path": "somewhere",
        "dropout": 0.1,
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    assert convert(**published).config("unet")["dropout"] == 0.1
