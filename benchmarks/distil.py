"""Distillation at full size on random weights: seconds and memory of an optimiser step of each
stage.

Configurations are the published models' with one sample a step and no moving average. Each stage
runs in a process of its own, from pictures on disk to checkpoints and the bundle, which its seconds
and its memory count too.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.architectures import (
    ARCHITECTURES,
    TEXT_ENCODERS,
    base_files,
    cache_folder,
    random_weights,
)
from benchmarks.checks import Refused
from benchmarks.counting import flops, unet_work, vae_decoder_work
from benchmarks.published import apart, lora_updates
from icd_engine.bundles.files import write_file
from icd_engine.networks.unet import UNet
from icd_engine.networks.vae import VAE
from training.config import read_config

CONFIGS = {
    "sd15": "sd15_4steps",
    "sdxl": "sdxl_4steps",
    "small": "sd15_4steps",
    "small-xl": "sdxl_4steps",
}
STAGES = ("latents", "guidance", "icd", "cycle")
NEEDED = {
    "latents": ["latents"],
    "guidance": ["latents", "guidance"],
    "icd": ["latents", "icd"],
    "cycle": ["latents", "icd", "cycle"],
}


def measure_stages(
    *, architecture: str, size: int | None = None, repeats: int = 2, only: str | None = None
) -> Iterator[dict[str, Any]]:
    """Of each stage, or `only` one: seconds of a step, and peak memory on the host and the device.
    Refused, IcdError.

    Stages that `only` needs run too. Consistency distillation starts from a teacher of random
    weights.
    """
    if architecture not in CONFIGS:
        raise Refused(f"architecture must be one of {', '.join(CONFIGS)}, not {architecture!r}")
    if only not in (None, *STAGES):
        raise Refused(f"a stage must be one of {', '.join(STAGES)}, not {only!r}")
    side = size or ARCHITECTURES[architecture]["size"]
    about = {
        "model": f"{architecture} (random weights)",
        "size": [side, side],
        "config": CONFIGS[architecture],
    }
    folder = cache_folder() / f"distil-{architecture}-{os.getpid()}"
    try:
        apart(_write_base, architecture, folder, side)
        for stage in NEEDED[only] if only else STAGES:
            result = apart(_stage, stage, architecture, folder, side, 1 + repeats)
            if only in (None, stage):
                cost = {} if stage == "latents" else counted(stage, architecture, side)
                yield about | {"stage": stage, "threads": torch.get_num_threads()} | result | cost
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def counted(stage: str, architecture: str, side: int) -> dict[str, float]:
    """What a sample costs by the configuration: TFLOP, and GiB of everything that stays whatever
    the batch.

    In passes of the UNet: a trained one is run, run again (checkpointing) and gone through
    backwards, which costs one pass for what came in and one for full weights; updates of rank 64
    are left out.
    """
    parts = ARCHITECTURES[architecture]
    config = read_config(CONFIGS[architecture])
    with torch.device("meta"):
        unet = UNet(parts["unet"])
        encoders = [TEXT_ENCODERS[name](parts[name]) for name in TEXT_ENCODERS if name in parts]
        rest = sum(
            p.numel() for module in (VAE(parts["vae"]), *encoders) for p in module.parameters()
        )
    weights = sum(p.numel() for p in unet.parameters())
    shapes = {key: tuple(value.shape) for key, value in unet.state_dict().items()}
    updates = sum(value.numel() for _, value in lora_updates(shapes, seed=0))
    latents = side // 8
    through = 3 * flops(unet_work(parts["unet"], latents, latents))
    once = through / 3
    if stage == "guidance":
        work = 2 * once + through + once
        kept = weights * (1 + 4 + (config.guidance.ema is not None))
    elif stage == "icd":
        share = config.preserve.share * sum(
            w > 0 for w in (config.preserve.forward, config.preserve.reverse)
        )
        work = 2 * (2 * once + through) + share * (once + through)
        kept = weights + 2 * updates * (4 + (config.icd.ema is not None))
    else:
        decoder = flops(vae_decoder_work(parts["vae"], side, side))
        work = (
            len(config.chain.encode_times) + len(config.chain.decode_times)
        ) * through + 4 * decoder
        kept = weights + updates + updates * (4 + (config.cycle.ema is not None))
    gib = (kept + rest) * 4 / 2**30
    return {
        "counted_tflop_per_sample": float(f"{work / 1e12:.3g}"),
        "counted_kept_gib": float(f"{gib:.3g}"),
    }


def _write_base(architecture: str, folder: Path, side: int) -> dict[str, Any]:
    parts = ARCHITECTURES[architecture]
    for name, content in base_files(parts):
        write_file(folder / "base", name, content)
    plain = {key: value for key, value in parts["unet"].items() if key != "time_cond_proj_dim"}
    for out, config in ((folder / "base" / "unet", plain), (folder / "teacher", parts["unet"])):
        with torch.device("meta"):
            unet = UNet(config)
        write_file(out, "config.json", config)
        write_file(out, "diffusion_pytorch_model.safetensors", random_weights(unet, seed=3))
    rng = np.random.default_rng(0)
    lines = ["picture,caption"]
    (folder / "data").mkdir()
    for i in range(3):
        picture = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(
            (side, side)
        )
        picture.save(folder / "data" / f"{i}.png")
        lines.append(f"{i}.png,a small red circle on a plain blue background")
    (folder / "data" / "metadata.csv").write_text("\n".join(lines))
    return {}


def _stage(stage: str, architecture: str, folder: Path, side: int, steps: int) -> dict[str, Any]:
    """One stage by the published configuration, in steps of one sample; the first step warms up."""
    from training import log, stages

    log.LOG_EVERY_SECONDS = 0.0  # a line for every step
    changes = [f"size={side}", "held_out=1"]
    for each in STAGES[1:]:
        changes += [
            f"{each}.{name}"
            for name in (f"samples={steps}", "batch=1", "accumulate=1", "check_every=0", "ema=null")
        ]
    config = read_config(CONFIGS[architecture], changes)
    out = folder / "run"
    if stage == "latents":
        stages.latents(config, folder / "base", out, str(folder / "data"))
        return {}
    teacher = () if stage == "guidance" else (folder / "teacher",)
    getattr(stages, stage)(config, folder / "base", out, *teacher)
    lines = [json.loads(line) for line in (out / f"{stage}.jsonl").read_text().splitlines()]
    step_s = round(float(np.median([line["ms_per_sample"] for line in lines[1:]])) / 1000, 3)
    device = (
        {"device_peak_memory_mib": lines[-1]["peak_gib"] * 1024} if "peak_gib" in lines[-1] else {}
    )
    return {"step_s": step_s} | device
