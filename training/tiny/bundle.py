"""The embedded model on disk: the base its distillation starts from, and the bundle the package
ships."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from icd_engine.bundles.bundle import Bundle, write_bundle
from icd_engine.bundles.files import read_json, read_weights, write_file
from icd_engine.networks.unet import UNet
from icd_engine.networks.vae import VAE
from icd_engine.sampling.schedule import STEPS
from training.tiny import text
from training.tiny.teacher import CONFIG as UNET_CONFIG
from training.tiny.teacher import Teacher
from training.tiny.vae import CONFIG as VAE_CONFIG
from training.world.drawing import draw
from training.world.scenes import parse_caption, sample_scene

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# The grid of `python -m training.world.quality` that the card shows
EDITS = HERE / "edits.jpg"
BUNDLE = ROOT / "icd_engine" / "bundles" / "tiny"
TEACHERS = HERE / "teacher_weights"
INSTRUCT = HERE / "instruct_weights"
WEIGHTS = "diffusion_pytorch_model.safetensors"
SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": STEPS,
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


def halves(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they are shipped: half precision."""
    return {key: value.detach().cpu().half() for key, value in weights.items()}


def demo_picture() -> bytes:
    """The scene of the demo's source caption, hidden parameters from its seed, as PNG."""
    scene = sample_scene(np.random.default_rng(DEMO["scene_seed"]))
    scene = replace(scene, **parse_caption(DEMO["source"]))
    file = io.BytesIO()
    Image.fromarray(draw(scene)).save(file, "PNG")
    return file.getvalue()


def write_base(folder: Path, vae: VAE, scale: float, teacher: Teacher) -> None:
    """The teacher as a diffusers folder, float32; `scale` brings the VAE's latents to unit
    deviation."""
    files: dict[str, Any] = {
        "model_index.json": MODEL_INDEX,
        "scheduler/scheduler_config.json": SCHEDULER,
        "vae/config.json": VAE_CONFIG | {"scaling_factor": scale},
        f"vae/{WEIGHTS}": vae.state_dict(),
        "text_encoder/config.json": text.config(),
        "text_encoder/model.safetensors": teacher.text.state_dict(),
        "unet/config.json": UNET_CONFIG,
        f"unet/{WEIGHTS}": teacher.unet.state_dict(),
    }
    for name, content in files.items():
        write_file(folder, name, content)
    text.write(folder / "tokenizer")


def read_vae(bundle: Bundle) -> VAE:
    """The VAE of a bundle, float32."""
    vae = VAE(read_json(bundle.path, "vae/config.json"))
    vae.load_state_dict(
        {key: value.float() for key, value in read_weights(bundle.weights("vae")).items()}
    )
    return vae.eval()


def write_tiny(out: Path, distilled: Bundle, vae: VAE | None = None) -> Bundle:
    """The bundle of a finished distillation as it is shipped, over an older one: half precision,
    with demo and card; `vae` in its VAE's place where it was trained on."""
    card, licence = (
        path.read_text(encoding="utf-8") for path in (BUNDLE / "README.md", ROOT / "LICENSE")
    )
    files: dict[str, Any] = {}
    for name in distilled.sha256:
        path = distilled.path / name
        files[name] = halves(read_weights(path)) if path.suffix == ".safetensors" else path
    if vae is not None:
        files[f"vae/{WEIGHTS}"] = halves(vae.state_dict())
    files |= {
        "demo.png": demo_picture(),
        "demo.json": {"source": DEMO["source"], "target": DEMO["target"], "settings": {}},
        "README.md": card,
        "edits.jpg": EDITS,
        "LICENSE": licence,
    }
    record = {
        k: v
        for k, v in read_json(distilled.path, "icd.json").items()
        if k not in ("format", "sha256")
    }
    origin = {
        "trained_by": "python -m training.tiny, python -m training",
        "world": "training/world",
    }
    return write_bundle(out, record | {"origin": origin}, files.items(), overwrite=True)


def write_unet(folder: Path, config: Mapping[str, Any], unet: UNet) -> None:
    """A UNet, half precision, as a diffusers folder: for baselines, too large for the wheel."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(
        {key: value.contiguous() for key, value in halves(unet.state_dict()).items()},
        folder / WEIGHTS,
    )
