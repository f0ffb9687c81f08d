"""The last stage of the embedded model: its VAE's decoder once more, for crisper edges.

The encoder is left alone and latents stay what they are, so no other network is trained anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from icd_engine.networks.vae import VAE
from training.loop import fit
from training.processes import device
from training.recipe import Part, Recipe
from training.tiny.edits import EditPool
from training.tiny.vae import to_pictures
from training.world.drawing import draw_batch
from training.world.scenes import sample_scene

RECIPE = Recipe(
    samples=6400, batch=4, lr=5e-4, warmup=100, ema=0.99, seed=11, precision="fp32", check_every=100
)
FROZEN = ("encoder.", "quant_conv.")
# Of a batch, as edits leave latents; the rest is fresh pictures, encoded
EDITED = 0.25
SQUARED = 2.0
GRADIENTS = 1.0
STEEPNESS = 6.0
# Side of the windows in which steepness is compared, px: edges off by less are as good as true ones
WINDOW = 5
HELD_OUT = 24
HELD_OUT_SEED = 77


def freeze(vae: VAE) -> VAE:
    """Only what decodes learns."""
    for name, parameter in vae.named_parameters():
        parameter.requires_grad_(not name.startswith(FROZEN))
    return vae


def gradients(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbours, to the right and down, of pictures [B, C, H, W]."""
    return pictures.diff(dim=3), pictures.diff(dim=2)


def edge_loss(error: Tensor) -> Tensor:
    """Mean absolute gradient of an error: a soft edge pays on both of its sides."""
    across, down = gradients(error)
    return across.abs().mean() + down.abs().mean()


def steepness(pictures: Tensor) -> Tensor:
    """Root mean square gradients around every pixel, [B, 2 C, H - 1, W - 1]: high where an edge is
    steep, wherever in the window it lies."""
    across, down = gradients(pictures)
    both = torch.cat([across[:, :, 1:], down[..., 1:]], dim=1).square()
    return (F.avg_pool2d(both, WINDOW, 1, WINDOW // 2) + 1e-4).sqrt()


def steepness_loss(decoded: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute difference of their steepness. Where the decoder can't know the place of an edge
    to the pixel, other losses are least for a soft one; this one is not."""
    return (steepness(decoded) - steepness(truth)).abs().mean()


def sharpness(decoded: Tensor, truth: Tensor) -> Tensor:
    """How steep true edges are decoded, along their true direction; 1 as steep as they are.

    Pictures [B, 3, H, W] in [-1, 1]; an edge is where neighbours differ by more than 0.2.
    """
    steep = torch.zeros(())
    true = torch.zeros(())
    for ours, theirs in zip(gradients(decoded), gradients(truth), strict=True):
        edge = theirs.abs() > 0.2
        steep = steep + (ours * theirs.sign())[edge].sum()
        true = true + theirs[edge].abs().sum()
    return steep / true


def batch(vae: VAE, edits: EditPool, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Scaled latents [count, 4, 16, 16] and the pictures [count, 3, 128, 128] to make of them."""
    edited = int((rng.random(count) < EDITED).sum())
    fresh = draw_batch([sample_scene(rng) for _ in range(count - edited)])
    latents, truth = edits.draw(rng, edited)
    pictures = to_pictures(np.concatenate([fresh, truth])).to(device())
    with torch.no_grad():
        encoded = vae.to_latents(pictures[: len(fresh)])
    return torch.cat([encoded, latents.to(device())]), pictures


def loss(vae: VAE, edits: EditPool, rng: np.random.Generator, count: int) -> Iterator[Part]:
    """Absolute error of pictures, of their gradients and of their steepness; the squared one holds
    the PSNR."""
    latents, pictures = batch(vae, edits, rng, count)
    decoded = vae.to_image(latents)
    error = decoded - pictures
    absolute = error.abs().mean()
    squared = error.square().mean()
    edges = edge_loss(error)
    steep = steepness_loss(decoded, pictures)
    total = absolute + SQUARED * squared + GRADIENTS * edges + STEEPNESS * steep
    yield Part("loss", total)
    watched = {"absolute": absolute, "squared": squared, "edges": edges, "steepness": steep}
    yield from (Part(name, value.detach(), weight=0.0) for name, value in watched.items())


def held_out(vae: VAE, count: int = HELD_OUT, seed: int = HELD_OUT_SEED) -> dict[str, float]:
    """Reconstruction PSNR, dB, and sharpness, on scenes that are not trained on."""
    rng = np.random.default_rng(seed)
    pictures = to_pictures(draw_batch([sample_scene(rng) for _ in range(count)])).to(device())
    decoded = vae.to_image(vae.to_latents(pictures)).clamp(-1, 1)
    squared = (decoded - pictures).square().mean(dim=(1, 2, 3))
    psnr = float((-10 * torch.log10(squared / 4)).mean())
    return {"psnr": round(psnr, 3), "sharpness": round(float(sharpness(decoded, pictures)), 4)}


def train(folder: Path, vae: VAE, edits: EditPool, recipe: Recipe = RECIPE) -> VAE:
    """`vae` with its decoder trained on (moving average)."""
    vae = freeze(vae.to(device()))
    return fit(
        "decoder",
        folder,
        recipe,
        vae,
        lambda rng, count: loss(vae, edits, rng, count),
        lambda: held_out(vae),
    )
