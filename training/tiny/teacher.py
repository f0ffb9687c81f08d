"""Stages 3 and 4 of the embedded model: the cache of latents, and the text-conditioned teacher UNet
trained on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from icd_engine.editing.words import PromptTokenizer
from icd_engine.networks.text_encoder import TextEncoder, TextLayer
from icd_engine.networks.unet import UNet
from icd_engine.networks.vae import VAE
from icd_engine.sampling.schedule import NoiseSchedule
from training.latents import Latents, write_latents
from training.loop import fit
from training.losses import Boundaries, denoising_loss
from training.processes import autocast, channels_last, device
from training.recipe import Part, Recipe
from training.tiny import text
from training.world.scenes import PICTURE_SIZE, parse_caption

CONFIG = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "attention_head_dim": 4,
    "block_out_channels": [64, 128],
    "center_input_sample": False,
    "cross_attention_dim": 64,
    "down_block_types": ["CrossAttnDownBlock2D"] * 2,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 1,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-5,
    "norm_num_groups": 16,
    "out_channels": 4,
    "sample_size": 16,
    "time_cond_proj_dim": None,
    "up_block_types": ["CrossAttnUpBlock2D"] * 2,
    "use_linear_projection": False,
}
RECIPE = Recipe(samples=700_000, batch=32, lr=1.2e-3, ema=0.998)
SCENES = 40_960
NO_CAPTION = 0.1
PARTIAL_CAPTION = 0.08


class TinyEncoder:
    """The tiny VAE's way in, for the cache."""

    downscale = 8

    def __init__(self, vae: VAE):
        self.vae = vae

    @torch.no_grad()
    def moments(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.vae.moments(pictures).chunk(2, dim=1)
        return mean, (0.5 * log_variance).exp()


def make_latents(folder: Path, vae: VAE, count: int = SCENES) -> None:
    """Draws and encodes `count` scenes."""
    write_latents(folder, TinyEncoder(vae), f"world:{count}", PICTURE_SIZE, batch=64)


def latent_scale(latents: Latents) -> float:
    """What brings the cached latents to unit deviation."""
    return 1.0 / float(latents.draw(np.random.default_rng(0), 4096)[0].std())


class LatentPool:
    """The cached latents, scaled to unit deviation, and their captions as the text encoder takes
    them."""

    def __init__(self, folder: Path):
        self.latents = Latents(folder)
        self.scale = latent_scale(self.latents)
        self.tokenizer = PromptTokenizer(text.tokenizer(), text.LENGTH, text.END)
        self._ids: dict[str, tuple[int, ...]] = {}

    def ids(self, captions: list[str]) -> Tensor:
        for caption in captions:
            if caption not in self._ids:
                self._ids[caption] = self.tokenizer.encode(caption).ids
        return torch.tensor([self._ids[caption] for caption in captions], device=device())

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Scaled latents [count, 4, 16, 16] (posterior samples) and caption ids [count, n]."""
        latents, captions = self.latents.draw(rng, count)
        return latents * self.scale, self.ids([thinned(caption, rng) for caption in captions])


def thinned(caption: str, rng: np.random.Generator) -> str:
    """The caption, sometimes without the size or texture word, sometimes empty (for guidance)."""
    no_caption, no_size, no_texture = rng.random(3) < (NO_CAPTION, PARTIAL_CAPTION, PARTIAL_CAPTION)
    if no_caption:
        return ""
    words = parse_caption(caption)
    for kind, dropped in (("size", no_size), ("texture", no_texture)):
        if dropped:
            caption = caption.replace(f"{words[kind]} ", "", 1)
    return caption


class Teacher(nn.Module):
    """Text encoder and UNet, trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.text = _initialised(TextEncoder(text.config()))
        self.unet = UNet(CONFIG)


@torch.no_grad()
def _initialised(encoder: TextEncoder) -> TextEncoder:
    """The encoder with weights as CLIP's training begins with (Radford et al., 2021, section 2.4)."""
    table = encoder.embeddings.token_embedding.weight
    layers = [module for module in encoder.modules() if isinstance(module, TextLayer)]
    usual = table.shape[1] ** -0.5
    into_residual = usual * (2 * len(layers)) ** -0.5
    nn.init.normal_(table, std=0.02)
    nn.init.normal_(encoder.embeddings.position_embedding.weight, std=0.02)
    for layer in layers:
        attention = layer.self_attn
        for linear, std in (
            (attention.q_proj, into_residual),
            (attention.k_proj, into_residual),
            (attention.v_proj, into_residual),
            (attention.out_proj, usual),
            (layer.mlp.fc1, usual * 2**-0.5),
            (layer.mlp.fc2, into_residual),
        ):
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)
    return encoder


def time_steps(rng: np.random.Generator, count: int, steps: int) -> Tensor:
    """Most around t = 430, where shapes are decided (swapping the shape word costs most there), the
    rest uniform."""
    middle = np.clip(np.rint(rng.normal(430, 130, count)), 1, steps - 1).astype(np.int64)
    return torch.from_numpy(
        np.where(rng.random(count) < 0.6, middle, rng.integers(1, steps, count))
    )


def loss(
    teacher: Teacher,
    unet: Callable,
    pool: LatentPool,
    tables: Boundaries,
    rng: np.random.Generator,
    count: int,
) -> Iterator[Part]:
    """Noise prediction; `unet` is the teacher's, compiled or not."""
    latents, ids = pool.draw(rng, count)
    noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32)).to(
        latents.device
    )
    t = time_steps(rng, count, tables.schedule.steps).to(latents.device)
    noised = tables.noised(latents, noise, t).contiguous(memory_format=torch.channels_last)
    with autocast():
        eps = unet(noised, t, teacher.text(ids)).eps.float()
    yield Part("loss", denoising_loss(eps, noise, tables.a[t], tables.sigma[t]))
    yield Part("eps_mse", (eps.detach() - noise).square().mean(), weight=0.0)


def train(folder: Path, latents: Path, recipe: Recipe = RECIPE) -> Teacher:
    """The trained teacher (moving average); latents: the cache."""
    torch.manual_seed(recipe.seed)
    teacher = channels_last(Teacher().to(device()))
    pool = LatentPool(latents)
    tables = Boundaries(NoiseSchedule.scaled_linear(), device())
    unet = torch.compile(teacher.unet)
    return fit(
        "teacher", folder, recipe, teacher, lambda rng, n: loss(teacher, unet, pool, tables, rng, n)
    )
