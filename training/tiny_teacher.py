"""Stages 2 and 3 of the embedded model: a pool of latents, and the text-conditioned teacher UNet trained on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from icd_engine.editing.words import PromptTokenizer
from icd_engine.networks.text_encoder import TextEncoder
from icd_engine.networks.unet import UNet
from icd_engine.networks.vae import VAE
from icd_engine.sampling.schedule import NoiseSchedule
from training import tiny_text, world
from training.loop import Losses, Recipe, channels_last, device, fit, rank, world_size
from training.losses import Boundaries, denoising_loss
from training.tiny_vae import to_pictures

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
POOL = 40_960
POOL_SEED = 1_000_000  # far from the seeds that draw evaluation pictures
NO_CAPTION = 0.1
PARTIAL_CAPTION = 0.08


def pool_file(folder: Path, part: int) -> Path:
    return folder / f"latents_{part}.safetensors"


def make_pool(folder: Path, vae: VAE, count: int = POOL, batch: int = 64) -> None:
    """Draws and encodes `count` scenes, each process its share: posterior mean and deviation (unscaled) and words."""
    path = pool_file(folder, rank())
    if path.exists():
        return
    means, spreads, words = [], [], []
    for first in range(rank() * batch, count, batch * world_size()):
        rng = np.random.default_rng([POOL_SEED, first])
        scenes = [world.sample_scene(rng) for _ in range(batch)]
        with torch.no_grad(), torch.autocast(device().type, torch.bfloat16):
            mean, log_variance = vae.moments(to_pictures(world.draw_batch(scenes))).chunk(2, dim=1)
        means.append(mean.half().cpu())
        spreads.append((0.5 * log_variance.float()).exp().half().cpu())
        index = [[world.WORDS[kind].index(getattr(scene, kind)) for kind in world.WORDS] for scene in scenes]
        words.append(torch.tensor(index, dtype=torch.uint8))
    named = {"mean": means, "deviation": spreads, "words": words}
    parts = {name: torch.cat(values).contiguous() for name, values in named.items()}
    save_file(parts, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


class Pool:
    """The cached latents of all processes, scaled to unit deviation."""

    def __init__(self, folder: Path):
        parts = [load_file(path) for path in sorted(folder.glob("latents_*.safetensors"))]
        self.mean = torch.cat([part["mean"] for part in parts])
        self.deviation = torch.cat([part["deviation"] for part in parts])
        self.words = torch.cat([part["words"] for part in parts])
        self.scale = 1.0 / float(self.mean[::7].float().std())
        self.tokenizer = PromptTokenizer(tiny_text.tokenizer(), tiny_text.LENGTH, tiny_text.END)
        self._ids: dict[str, tuple[int, ...]] = {}

    def ids(self, captions: list[str]) -> Tensor:
        for caption in captions:
            if caption not in self._ids:
                self._ids[caption] = self.tokenizer.encode(caption).ids
        return torch.tensor([self._ids[caption] for caption in captions], device=device())

    def captions(self, rows: np.ndarray, rng: np.random.Generator, *, dropped: bool = True) -> list[str]:
        """Captions of pool rows; sometimes without the size or texture word, sometimes empty (for guidance)."""
        result = []
        for row in rows:
            word = {kind: words[i] for (kind, words), i in zip(world.WORDS.items(), self.words[row], strict=True)}
            draws = rng.random(3) if dropped else (1.0, 1.0, 1.0)
            if draws[1] < PARTIAL_CAPTION:
                word["size"] = ""
            if draws[2] < PARTIAL_CAPTION:
                word["texture"] = ""
            caption = "a {size} {color} {shape} on a {texture} {background} background".format_map(word)
            result.append("" if draws[0] < NO_CAPTION else " ".join(caption.split()))
        return result

    def draw(self, rng: np.random.Generator, count: int, *, dropped: bool = True) -> tuple[Tensor, Tensor]:
        """Scaled latents [count, 4, 16, 16] (posterior samples) and caption ids [count, n]."""
        rows = rng.integers(0, len(self.mean), count)
        mean, deviation = self.mean[rows].float(), self.deviation[rows].float()
        noise = torch.from_numpy(rng.standard_normal(mean.shape, dtype=np.float32))
        latents = ((mean + deviation * noise) * self.scale).to(device())
        return latents, self.ids(self.captions(rows, rng, dropped=dropped))


class Teacher(nn.Module):
    """Text encoder and UNet, trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.text = TextEncoder(tiny_text.config())
        self.unet = UNet(CONFIG)


def time_steps(rng: np.random.Generator, count: int) -> Tensor:
    """Most around t = 430, where shapes are decided (swapping the shape word costs most there), the rest uniform."""
    middle = np.clip(np.rint(rng.normal(430, 130, count)), 1, 999).astype(np.int64)
    return torch.from_numpy(np.where(rng.random(count) < 0.6, middle, rng.integers(1, 1000, count)))


def loss(
    teacher: Teacher, unet: Callable, pool: Pool, tables: Boundaries, rng: np.random.Generator, count: int
) -> Losses:
    """Noise prediction; `unet` is the teacher's, compiled or not."""
    latents, ids = pool.draw(rng, count)
    noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32)).to(latents.device)
    t = time_steps(rng, count).to(latents.device)
    noised = tables.noised(latents, noise, t).contiguous(memory_format=torch.channels_last)
    with torch.autocast(latents.device.type, torch.bfloat16):
        eps = unet(noised, t, teacher.text(ids)).eps.float()
    plain = (eps.detach() - noise).square().mean()
    return {"loss": denoising_loss(eps, noise, tables.a[t], tables.sigma[t]), "eps_mse": plain}


def train(folder: Path, recipe: Recipe = RECIPE) -> Teacher:
    """The trained teacher (moving average)."""
    torch.manual_seed(recipe.seed)
    teacher = channels_last(Teacher().to(device()))
    pool, tables = Pool(folder), Boundaries(NoiseSchedule.scaled_linear(), device())
    unet = torch.compile(teacher.unet)
    return fit("teacher", folder, recipe, teacher, lambda rng, n: loss(teacher, unet, pool, tables, rng, n))
