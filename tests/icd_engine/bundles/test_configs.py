"""Configurations: what no network can be made of is named by file and field, before any is made."""

import json

import pytest

from benchmarks.architectures import CLIP_BIG_G, CLIP_L, UNET_SD15, UNET_SDXL, VAE_SD15
from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.configs import PartConfig, check_configs
from icd_engine.errors import BundleError

TOKENIZER = {"model_max_length": 77, "pad_token": {"content": "<|endoftext|>"}}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}
SD15 = {
    "tokenizer": TOKENIZER,
    "scheduler": SCHEDULER,
    "text_encoder": CLIP_L,
    "vae": VAE_SD15,
    "unet": UNET_SD15,
    "unet_forward": UNET_SD15,
}
SDXL = SD15 | {
    "tokenizer_2": TOKENIZER,
    "text_encoder_2": CLIP_BIG_G,
    "vae": VAE_SD15
    | {"sample_size": 1024, "scaling_factor": 0.13025, "latents_mean": None, "force_upcast": True},
    "unet": UNET_SDXL,
    "unet_forward": UNET_SDXL,
}


def check(configs: dict) -> None:
    check_configs(configs, {part: f"{part}/config.json" for part in configs})


@pytest.mark.parametrize("configs", [SD15, SDXL], ids=["sd15", "sdxl"])
def test_the_published_architectures_are_sound(configs):
    check(configs)


@pytest.mark.parametrize("value", [None, True, 0, -1, 1.5, 10**9, "8", [], {}, [8, "8"]], ids=repr)
@pytest.mark.parametrize(
    ("part", "field"),
    [
        ("tokenizer", "model_max_length"),
        ("scheduler", "num_train_timesteps"),
        ("text_encoder", "hidden_size"),
        ("text_encoder_2", "num_hidden_layers"),
        ("vae", "block_out_channels"),
        ("vae", "latent_channels"),
        ("unet", "layers_per_block"),
        ("unet_forward", "norm_num_groups"),
        ("unet_forward", "cross_attention_dim"),
    ],
)
def test_what_is_no_count_of_anything_is_named(part, field, value):
    with pytest.raises(BundleError, match=rf"^{part}/config\.json: {field} must be "):
        check(SDXL | {part: SDXL[part] | {field: value}})


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (
            "vae",
            {"scaling_factor": 0},
            "scaling_factor must be a number above 0, at most 1000, not 0",
        ),
        (
            "vae",
            {"scaling_factor": float("nan")},
            "scaling_factor must be a number above 0, at most 1000, not nan",
        ),
        ("vae", {"shift_factor": 0.1}, "shift_factor must be null, not 0.1"),
        ("vae", {"in_channels": 4}, "in_channels must be a whole number in 3..3, not 4"),
        ("vae", {"norm_num_groups": 24}, "128 channels cannot be divided by norm_num_groups 24"),
        ("scheduler", {"beta_end": "x"}, "beta_end must be a number above 0, at most 1, not 'x'"),
        (
            "scheduler",
            {"rescale_betas_zero_snr": 1},
            "rescale_betas_zero_snr must be true or false or null, not 1",
        ),
        (
            "scheduler",
            {"timestep_type": "continuous"},
            "timestep_type must be 'discrete', not 'continuous'",
        ),
        ("scheduler", {"use_flow_sigmas": True}, "use_flow_sigmas must be False or None, not True"),
        ("scheduler", {"snr_shift_scale": 3.0}, "snr_shift_scale must be 1.0 or None, not 3.0"),
        (
            "scheduler",
            {"prediction_type": "sample"},
            "prediction_type must be 'epsilon' or 'v_prediction', not 'sample'",
        ),
        (
            "text_encoder",
            {"hidden_act": "tanh"},
            "hidden_act must be 'quick_gelu' or .*, not 'tanh'",
        ),
        (
            "text_encoder",
            {"eos_token_id": None},
            "eos_token_id must be a whole number in 0..1048576, not None",
        ),
        (
            "text_encoder",
            {"num_attention_heads": 7},
            "hidden_size cannot be divided by num_attention_heads",
        ),
        ("tokenizer", {"pad_token": 5}, "pad_token must be a text or an object or null, not 5"),
        (
            "tokenizer",
            {"model_max_length": 78},
            "model_max_length 78 is beyond the text encoder's 77",
        ),
        (
            "unet",
            {"attention_head_dim": [5, 10]},
            "attention_head_dim has 2 entries for 3 block_out_channels",
        ),
        (
            "unet",
            {"attention_head_dim": [5, 10, 21]},
            "1280 channels cannot be divided by attention_head_dim 21",
        ),
        (
            "unet",
            {"down_block_types": ["DownBlock2D"]},
            "down_block_types has 1 entries for 3 block_out_channels",
        ),
        (
            "unet",
            {"cross_attention_dim": 768},
            "cross_attention_dim is 768, but other parts make it 2048",
        ),
        ("unet_forward", {"in_channels": 9}, "in_channels is 9, but other parts make it 4"),
        (
            "unet",
            {"block_out_channels": [320] * 9},
            "block_out_channels must be a list of up to 8, each a whole number",
        ),
        (
            "unet",
            {"use_linear_projection": 1},
            "use_linear_projection must be true or false, not 1",
        ),
        (
            "unet",
            {"addition_embed_type": "image"},
            "addition_embed_type must be None or 'text_time', not 'image'",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_named(part, change, message):
    with pytest.raises(BundleError, match=rf"^{part}/config\.json: {message}"):
        check(SDXL | {part: SDXL[part] | change})


def test_a_missing_field_is_for_who_reads_it():
    config = PartConfig({"here": 1}, "folder/vae/config.json")
    assert config["here"] == 1 and config.get("elsewhere") is None
    with pytest.raises(BundleError, match=r"^folder/vae/config\.json: 'elsewhere' is missing$"):
        config["elsewhere"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "NaN",
        "[" * 100_000,
        '{"a": ' * 100_000,
        "\0",
        '{"hidden_size": 1' + "0" * 5000 + "}",
    ],
)
def test_what_is_no_configuration_is_named(folder, text):
    (folder / "text_encoder" / "config.json").write_text(text)
    with pytest.raises(
        BundleError,
        match=r"text_encoder/config\.json (is not readable JSON|must hold a JSON object)",
    ) as e:
        read_bundle(folder)
    assert len(str(e.value)) <= 500


def test_a_bundle_is_checked_where_it_is_read(folder):
    path = folder / "vae" / "config.json"
    path.write_text(json.dumps({"latent_channels": "four"}))
    with pytest.raises(BundleError, match=r"bundle: vae/config\.json: latent_channels must be"):
        read_bundle(folder)
