"""Published architectures without their weights: speed needs the shapes only, so random numbers
serve."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from icd_engine.bundles.bundle import Bundle, read_bundle, write_record
from icd_engine.bundles.files import write_file
from icd_engine.bundles.target import new_folder
from icd_engine.bundles.times import CHAIN_A, START
from icd_engine.errors import BundleError
from icd_engine.networks.text_encoder import PooledTextEncoder, TextEncoder
from icd_engine.networks.unet import UNet
from icd_engine.networks.vae import VAE
from icd_engine.settings import EditSettings
from training.tiny import text
from training.tiny.bundle import MODEL_INDEX, SCHEDULER

WEIGHTS = "diffusion_pytorch_model.safetensors"
DRAWN = 4194301  # random numbers of a network, a prime: its rows are no repetitions of each other
FORMAT = 4  # of the random bundles: a cached one of another format is written again

UNET_SD15 = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "time_cond_proj_dim": 512,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
UNET_SDXL = UNET_SD15 | {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
    "use_linear_projection": True,
}
VAE_SD15 = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "scaling_factor": 0.18215,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
CLIP_L = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "max_position_embeddings": 77,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    # The words below come first in the vocabulary, begin and end token before them
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
CLIP_BIG_G = CLIP_L | {
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
NARROW = {"block_out_channels": [16, 32, 32, 32], "norm_num_groups": 8}
NARROW_UNET = NARROW | {
    "attention_head_dim": 2,
    "cross_attention_dim": 32,
    "time_cond_proj_dim": 64,
}
NARROW_TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
}
NARROW_XL_TEXT = NARROW_TEXT | {"hidden_size": 16, "num_hidden_layers": 2, "projection_dim": 32}

# By name: the parts as their config.json, and the side of the pictures. "small" has the levels of
# sd15 and no width: it shows that a benchmark runs, its times mean nothing.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "sd15": {"unet": UNET_SD15, "vae": VAE_SD15, "text_encoder": CLIP_L, "size": 512},
    "sdxl": {
        "unet": UNET_SDXL,
        "vae": VAE_SD15 | {"scaling_factor": 0.13025, "sample_size": 1024},
        "text_encoder": CLIP_L,
        "text_encoder_2": CLIP_BIG_G,
        "size": 1024,
    },
    "small": {
        "unet": UNET_SD15 | NARROW_UNET,
        "vae": VAE_SD15 | NARROW | {"layers_per_block": 1},
        "text_encoder": CLIP_L | NARROW_TEXT | {"num_hidden_layers": 1},
        "size": 64,
    },
    "small-xl": {
        "unet": UNET_SDXL
        | NARROW_UNET
        | {
            "block_out_channels": [16, 32, 64],
            "attention_head_dim": [1, 2, 4],
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 80,
        },
        "vae": VAE_SD15 | NARROW | {"layers_per_block": 1},
        "text_encoder": CLIP_L | NARROW_XL_TEXT,
        "text_encoder_2": CLIP_BIG_G | NARROW_XL_TEXT,
        "size": 64,
    },
}
TEXT_ENCODERS: dict[str, type[TextEncoder]] = {
    "text_encoder": TextEncoder,
    "text_encoder_2": PooledTextEncoder,
}
MODEL_INDEX_SDXL = MODEL_INDEX | {
    "_class_name": "StableDiffusionXLPipeline",
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer_2": ["transformers", "PreTrainedTokenizerFast"],
}
# Plain initialisation gives latents far below unit size and prompts that hardly matter, and
# predictions of unit size would make the hops chaotic, so that bfloat16 and float32 gave two
# pictures. With these factors latents have unit size, another control moves the result by some
# percent, and bfloat16 by half of that. The first that fits counts.
GAINS = {
    "attn2.to_q": 2.0,
    "attn2.to_k": 2.0,
    "attn2.to_v": 3.0,
    "encoder.conv_out": 40.0,
    "decoder.conv_out": 2.0,
    "conv_out": 0.1,
}


def architecture_bundle(name: str, size: int | None = None, *, cache: Path | None = None) -> Bundle:
    """A whole bundle of random half-precision weights, written once to the cache folder and then
    read from it.

    The encode and the decode network are one file: half the memory serves a baseline. Nothing is
    hashed: gigabytes are made in the time it takes to write them. size: side of the pictures in
    pixels. BundleError for an unknown architecture.
    """
    parts = ARCHITECTURES.get(name)
    if parts is None:
        raise BundleError(
            f"no bundle of architecture {name!r} can be made (known: {', '.join(ARCHITECTURES)})"
        )
    size = size or parts["size"]
    out = (cache or cache_folder()) / f"{name}-{size}-{FORMAT}"
    try:
        return read_bundle(out, verify=False)
    except BundleError:
        record = {
            "family": "sdxl" if "text_encoder_2" in parts else "sd15",
            "encode_times": [START, *CHAIN_A[:-1]],
            "encode_end": CHAIN_A[-1],
            "decode_times": list(CHAIN_A),
            "size": [size, size],
            "blend_downscale": 4,
            "share_downscale": 2,
            "defaults": EditSettings(
                guidance_scale=7.0, tau=0.8, cross_replace=0.4, self_replace=0.6, seed=0
            ),
            "origin": {"made": "of random weights, for benchmarks"},
        }
        _write(out, record, parts)
        return read_bundle(out, verify=False)


def cache_folder() -> Path:
    """Where random bundles are kept: $ICD_BENCHMARK_CACHE, or a folder of the user's cache."""
    given = os.environ.get("ICD_BENCHMARK_CACHE")
    return (
        Path(given)
        if given
        else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "icd_benchmarks"
    )


def _write(out: Path, record: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    with torch.device("meta"):
        unet = UNet(parts["unet"])
    with new_folder(out, overwrite=True) as new:
        for name, content in base_files(parts):
            write_file(new, name, content)
        for part in ("unet", "unet_forward"):
            write_file(new, f"{part}/config.json", parts["unet"])
        first = new / "unet" / WEIGHTS
        write_file(new, f"unet/{WEIGHTS}", random_weights(unet, seed=3))
        try:
            (new / "unet_forward" / WEIGHTS).hardlink_to(first)
        except OSError:  # a file system without links
            write_file(new, f"unet_forward/{WEIGHTS}", first)
        write_record(new, record, {})


def base_files(parts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """All of a diffusers folder but its UNet."""
    encoders = [part for part in TEXT_ENCODERS if part in parts]
    yield "model_index.json", MODEL_INDEX_SDXL if len(encoders) > 1 else MODEL_INDEX
    yield "scheduler/scheduler_config.json", SCHEDULER
    for i, part in enumerate(encoders):
        yield from _tokenizer(part.replace("text_encoder", "tokenizer"))
        with torch.device("meta"):
            encoder = TEXT_ENCODERS[part](parts[part])
        yield f"{part}/config.json", parts[part]
        yield f"{part}/model.safetensors", random_weights(encoder, seed=1 + 10 * i)
    with torch.device("meta"):
        vae = VAE(parts["vae"])
    yield "vae/config.json", parts["vae"]
    yield (
        f"vae/{WEIGHTS}",
        _sharp(random_weights(vae, seed=2), parts["vae"]["latent_channels"]),
    )


def _sharp(vae: dict[str, Tensor], latents: int) -> dict[str, Tensor]:
    """A VAE whose posterior is as narrow as a trained one's: SDXL takes samples of it."""
    # Log-variance
    vae["quant_conv.weight"][latents:] = 0.0
    vae["quant_conv.bias"][latents:] = -10.0
    return vae


def _tokenizer(folder: str) -> Iterator[tuple[str, Any]]:
    """That of the embedded model: its closed vocabulary is the first rows of the text encoder's
    table."""
    yield f"{folder}/tokenizer.json", text.tokenizer().to_str(pretty=True)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": text.END,
        "model_max_length": 77,
    }
    yield f"{folder}/tokenizer_config.json", json.dumps(settings, indent=1)


def random_weights(network: nn.Module, seed: int) -> dict[str, Tensor]:
    """Seeded half-precision weights for a network's shapes (it may be on the meta device): variance
    1 / (3 fan-in).

    All are read from one block of numbers, over and over: drawing a billion would take most of a
    minute.
    """
    generator = torch.Generator().manual_seed(seed)
    block = torch.randn(DRAWN, generator=generator)
    weights = {}
    for key, like in network.state_dict().items():
        if not like.is_floating_point():
            raise BundleError(f"{key} is {like.dtype}: no random weight can stand for it")
        first = int(torch.randint(DRAWN, (), generator=generator))
        count = min(like.numel(), DRAWN)
        drawn = torch.cat([block[first : first + count], block[: max(0, first + count - DRAWN)]])
        if like.ndim == 1:  # norms keep their scale, biases are small
            drawn = drawn * 0.02 + (key.endswith("weight"))
        else:
            gain = next((factor for part, factor in GAINS.items() if part in key), 1.0)
            drawn = drawn * (gain * (3 * like[0].numel()) ** -0.5)
        times = -(-like.numel() // count)
        weights[key] = drawn.half().repeat(times)[: like.numel()].reshape(like.shape).contiguous()
    return weights
