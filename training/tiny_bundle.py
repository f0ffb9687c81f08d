"""Last stage of the embedded model: trained networks -> the bundle the package ships, its demo and its teacher."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from icd_engine.bundles.bundle import Bundle, write_bundle
from icd_engine.networks.unet import UNet
from icd_engine.networks.vae import VAE
from icd_engine.settings import EditSettings
from training import tiny_distil, tiny_teacher, tiny_text, tiny_vae, world

ROOT = Path(__file__).resolve().parents[1]
EDITS = ROOT / "training" / "tiny_edits.jpg"  # the grid of `python -m training.quality` that the card shows
BUNDLE = ROOT / "icd_engine" / "bundles" / "tiny"
TEACHERS = ROOT / "training" / "tiny_teacher_weights"
WEIGHTS = "diffusion_pytorch_model.safetensors"
# Chosen on pairs of seed 100 by `python -m training.tiny_search`.
DEFAULTS = EditSettings(guidance_scale=4.0, tau=0.8, control="auto", cross_replace=0.2, self_replace=0.5, seed=0)
SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
}
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDPMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
DEMO = {
    "scene_seed": 3,
    "source": "a large purple heart on a plain orange background",
    "target": "a large blue heart on a plain orange background",
}


def halves(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights as they are shipped: half precision."""
    return {key: value.detach().cpu().half() for key, value in module.state_dict().items()}


def demo_picture() -> bytes:
    """The scene of the demo's source caption, hidden parameters from its seed, as PNG."""
    scene = world.sample_scene(np.random.default_rng(DEMO["scene_seed"]))
    scene = replace(scene, **world.parse_caption(DEMO["source"]))
    file = io.BytesIO()
    Image.fromarray(world.draw(scene)).save(file, "PNG")
    return file.getvalue()


def write_tiny(
    out: Path, vae: VAE, scale: float, teacher: tiny_teacher.Teacher, pair: tiny_distil.Pair, card: str, licence: str
) -> Bundle:
    """Writes the bundle to `out`, over an older one; `scale` brings the VAE's latents to unit deviation."""
    files: dict[str, Any] = {
        "model_index.json": MODEL_INDEX,
        "scheduler/scheduler_config.json": SCHEDULER,
        "vae/config.json": tiny_vae.CONFIG | {"scaling_factor": scale},
        f"vae/{WEIGHTS}": halves(vae),
        "text_encoder/config.json": tiny_text.config(),
        "text_encoder/model.safetensors": halves(teacher.text.model),
        "unet/config.json": tiny_distil.CONFIG,
        f"unet/{WEIGHTS}": halves(pair.reverse_net),
        "unet_forward/config.json": tiny_distil.CONFIG,
        f"unet_forward/{WEIGHTS}": halves(pair.forward_net),
        "demo.png": demo_picture(),
        "demo.json": {"source": DEMO["source"], "target": DEMO["target"], "settings": {}},
        "README.md": card,
        "edits.jpg": EDITS,
        "LICENSE": licence,
    }
    with TemporaryDirectory() as scratch:
        tiny_text.write(Path(scratch))
        files |= {f"tokenizer/{path.name}": path.read_text(encoding="utf-8") for path in Path(scratch).iterdir()}
    record: Mapping[str, Any] = {
        "family": "sd15",
        "encode_times": list(tiny_distil.ENCODE_TIMES),
        "encode_end": tiny_distil.ENCODE_END,
        "decode_times": list(tiny_distil.DECODE_TIMES),
        "size": [world.PICTURE_SIZE, world.PICTURE_SIZE],
        "blend_downscale": 1,
        "share_downscale": 1,
        "defaults": DEFAULTS,
        "origin": {"trained_by": "python -m training.tiny", "world": "training/world.py"},
    }
    return write_bundle(out, record, files.items(), overwrite=True)


def write_teacher(folder: Path, unet: UNet) -> None:
    """The teacher, half precision, as a diffusers UNet folder: for baselines, too large for the wheel."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(tiny_teacher.CONFIG, indent=2) + "\n")
    save_file({key: value.contiguous() for key, value in halves(unet).items()}, folder / WEIGHTS)
