"""Stage 1 of the embedded model: the VAE, 128x128 pictures to 16x16 latents of 4 channels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from icd_engine.networks.vae import VAE
from training.loop import fit
from training.processes import autocast, channels_last, device
from training.recipe import Part, Recipe
from training.world.drawing import draw_batch
from training.world.scenes import sample_scene

CONFIG = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [16, 32, 64, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "mid_block_add_attention": True,
    # One group: with so few channels, narrow groups act like instance norm and cost decibels in
    # halos.
    "norm_num_groups": 1,
    "out_channels": 3,
    "sample_size": 128,
    "scaling_factor": 1.0,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
RECIPE = Recipe(samples=40_000, batch=16, lr=2e-3, ema=0.995)
KL_WEIGHT = 1e-3


def to_pictures(pixels: np.ndarray) -> Tensor:
    """uint8 [B, 128, 128, 3] -> float [B, 3, 128, 128] in [-1, 1], channels-last in memory."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def loss(vae: VAE, rng: np.random.Generator, count: int) -> Iterator[Part]:
    """Reconstruction (absolute and squared) plus a KL term that keeps the latent space smooth."""
    pictures = to_pictures(draw_batch([sample_scene(rng) for _ in range(count)])).to(device())
    noise = torch.from_numpy(rng.standard_normal((count, 4, 16, 16), dtype=np.float32)).to(
        pictures.device
    )
    with autocast():
        mean, log_variance = vae.moments(pictures).chunk(2, dim=1)
        mean = mean.float()
        log_variance = log_variance.float()
        latents = mean + (0.5 * log_variance).exp() * noise
        decoded = vae.to_image(latents * vae.scaling_factor).float()
    error = decoded - pictures
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    squared = error.square().mean()
    total = error.abs().mean() + 2 * squared + KL_WEIGHT * kl
    psnr = -10 * torch.log10(squared.detach() / 4)
    spread = (0.5 * log_variance.detach()).exp().mean()
    yield Part("loss", total)
    watched = {"kl": kl, "psnr": psnr, "latent_std": mean.std(), "posterior_std": spread}
    yield from (Part(name, value.detach(), weight=0.0) for name, value in watched.items())


def train(folder: Path, recipe: Recipe = RECIPE) -> VAE:
    """The trained VAE (moving average); its latents are not scaled yet."""
    torch.manual_seed(recipe.seed)
    vae = channels_last(VAE(CONFIG).to(device()))
    return fit("vae", folder, recipe, vae, lambda rng, count: loss(vae, rng, count))
