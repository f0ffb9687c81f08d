"""What a distillation is watched by: pictures that go to noise and come back, and pictures made
from noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icd_engine.images import psnr
from icd_engine.sampling.guidance import dynamic_guidance
from icd_engine.sampling.noise import normal_noise
from training.base import Base
from training.batches import some
from training.choices import Chain
from training.distil import decode, encode
from training.latents import Held
from training.losses import Boundaries
from training.networks import Students
from training.processes import device

MADE = 4  # pictures made from noise


def icd_check(
    networks: Students, base: Base, chain: Chain, folder: Path, w: float, tau: float
) -> Callable[[], dict[str, Any]]:
    """Of the held-out pictures of a cache: PSNR of the way there and back, unguided, guided by
    steps of tau, and throughout; the deviation of the noise; pictures from noise under full
    guidance."""
    held = Held(folder)
    tables = Boundaries(base.schedule, device())
    prompts = base.encode_prompts(held.captions)
    pictures = torch.from_numpy(held.pixels).to(device()).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = base.moments(pictures)[0] * base.scaling_factor
    t = torch.full((len(latents),), chain.encode_times[0], device=device())
    start = tables.noised(
        latents, torch.from_numpy(normal_noise(0, tuple(latents.shape))).to(device()), t
    )
    down = list(reversed(chain.decode_times))
    forms = {
        "unguided": [0.0] * len(down),
        "dynamic": [dynamic_guidance(t, w, tau, steps=base.schedule.steps) for t in down],
        "constant": [w] * len(down),
    }

    def check() -> dict[str, Any]:
        noise = encode(networks, base.schedule, chain, start, prompts)
        rows = [held.pixels]
        found: dict[str, Any] = {"noise_std": round(float(noise.std()), 4)}
        for name, weights in forms.items():
            rows.append(
                pixels(
                    base.to_pictures(
                        decode(networks, base.schedule, chain, noise, prompts, weights)
                    )
                )
            )
            found[f"inversion_psnr_{name}"] = round(
                float(np.mean([psnr(a, b) for a, b in zip(rows[-1], held.pixels, strict=True)])), 3
            )
        found["inversion"] = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
        drawn = torch.from_numpy(normal_noise(1, tuple(start[:MADE].shape))).to(device())
        made = decode(networks, base.schedule, chain, drawn, some(prompts, MADE), [w] * len(down))
        found["generated"] = np.concatenate(list(pixels(base.to_pictures(made))), axis=1)
        return found

    return check


def pixels(pictures: Tensor) -> np.ndarray:
    """[B, 3, H, W] in [-1, 1] -> uint8 [B, H, W, 3]."""
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
