"""An InstructPix2Pix of the embedded model's world (Brooks et al., arXiv 2211.09800), for
comparisons: the teacher, widened to see the picture that it edits, trained on exact pairs.

As in the paper the clean picture's latents, not scaled, are four further input channels that start
at zero, and conditions are dropped now and then so that both can be guided. The world has captions
and no instructions: the text is the caption of the edited picture. VAE and text encoder are the
embedded model's and stay as they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.files import read_weights
from icd_engine.editing.words import PromptTokenizer
from icd_engine.loading import load_network, load_text_encoder
from icd_engine.networks.unet import UNet
from icd_engine.networks.vae import VAE
from icd_engine.sampling.schedule import NoiseSchedule
from training.loop import fit
from training.losses import Boundaries, denoising_loss
from training.processes import autocast, channels_last, device
from training.recipe import Part, Recipe
from training.tiny import teacher, text
from training.tiny.bundle import TEACHERS, WEIGHTS
from training.tiny.vae import to_pictures
from training.world.drawing import draw_batch
from training.world.scenes import Scene, sample_scene

CONFIG = teacher.CONFIG | {"in_channels": 8}
KINDS = ("color", "background", "shape")
SCENES = 1536
PAIRS = "instruct_pairs.safetensors"
# float32: processors without products in bfloat16 imitate them, twenty times slower
RECIPE = Recipe(samples=12_800, batch=8, lr=6e-4, warmup=50, ema=0.995, precision="fp32")
DROPPED = 0.05  # of the pairs each: the text alone, the picture alone, both


class Batch(NamedTuple):
    """Edited latents, scaled, and the picture's, not scaled, [B, 4, 16, 16]; prompts [B, n, 64]."""

    edited: Tensor
    picture: Tensor
    prompts: Tensor


def variants(rng: np.random.Generator) -> list[Scene]:
    """A scene, then the same with one word of each of KINDS changed."""
    scene = sample_scene(rng)
    changed = [scene]
    for kind in KINDS:
        words = scene.alternatives(kind)
        changed.append(scene.edited(kind, words[rng.integers(len(words))]))
    return changed


@torch.no_grad()
def make_pairs(path: Path, count: int = SCENES, seed: int = 0) -> None:
    """Draws and encodes the variants of `count` scenes, unless the file is there.

    mean and deviation of the posterior, not scaled, half precision, [count, 4, 4, 16, 16], and the
    captions.
    """
    if path.exists():
        return
    rng = np.random.default_rng(seed)
    vae = load_network(read_bundle("tiny"), "vae", VAE, device(), torch.float32)
    moments: list[Tensor] = []
    captions: list[list[str]] = []
    for _ in range(count):
        scenes = variants(rng)
        captions.append([scene.caption for scene in scenes])
        moments.append(vae.moments(to_pictures(draw_batch(scenes)).to(device())).cpu())
    mean, log_variance = torch.stack(moments).chunk(2, dim=2)
    held = {"mean": mean.half(), "deviation": (0.5 * log_variance).exp().half()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".tmp{os.getpid()}")
    save_file(
        {name: value.contiguous() for name, value in held.items()},
        temporary,
        metadata={"captions": json.dumps(captions)},
    )
    os.replace(temporary, path)


class PairPool:
    """The encoded scenes, drawn from as pairs: one word differs, either way round."""

    def __init__(self, path: Path):
        with safe_open(path, "pt") as file:
            self.mean = file.get_tensor("mean").to(device())
            self.deviation = file.get_tensor("deviation").to(device())
            self.captions: list[list[str]] = json.loads(file.metadata()["captions"])
        bundle = read_bundle("tiny")
        self.scale: float = bundle.config("vae")["scaling_factor"]
        self.encoder = load_text_encoder(bundle, device(), torch.float32)
        self.tokenizer = PromptTokenizer(text.tokenizer(), text.LENGTH, text.END)

    @torch.no_grad()
    def prompts(self, captions: list[str]) -> Tensor:
        ids = [self.tokenizer.encode(caption).ids for caption in captions]
        return self.encoder.encode(torch.tensor(ids, device=device())).tokens

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        """Edited latents are samples of the posterior, the picture's its mean, as in the paper."""
        scenes = rng.integers(0, len(self.captions), count)
        ends = np.stack([np.zeros(count, np.int64), rng.integers(1, len(KINDS) + 1, count)])
        source, target = np.where(rng.random(count) < 0.5, ends, ends[::-1])
        noise = torch.from_numpy(rng.standard_normal((count, 4, 16, 16), dtype=np.float32))
        edited = self.mean[scenes, target] + self.deviation[scenes, target] * noise.to(device())
        picture = self.mean[scenes, source].float()
        no_text, no_picture = dropped(rng, count)
        picture[torch.from_numpy(no_picture).to(device())] = 0
        captions = [
            "" if without else self.captions[scene][end]
            for scene, end, without in zip(scenes, target, no_text, strict=True)
        ]
        return Batch(edited * self.scale, picture, self.prompts(captions))


def dropped(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of `count` pairs lose their text and which their picture, bool [count] each."""
    chance = rng.random(count)
    return chance < 2 * DROPPED, (chance >= DROPPED) & (chance < 3 * DROPPED)


def widened(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A UNet's weights, float32, with as many further input channels of zeros."""
    first = weights["conv_in.weight"]
    wide = torch.cat([first, torch.zeros_like(first)], dim=1)
    return {key: value.float() for key, value in (weights | {"conv_in.weight": wide}).items()}


def loss(
    unet: Callable, pool: PairPool, tables: Boundaries, rng: np.random.Generator, count: int
) -> Iterator[Part]:
    """Noise prediction of the edited latents, with the teacher's weights and time steps."""
    batch = pool.draw(rng, count)
    noise = torch.from_numpy(rng.standard_normal(batch.edited.shape, dtype=np.float32))
    noise = noise.to(batch.edited.device)
    t = teacher.time_steps(rng, count, tables.schedule.steps).to(noise.device)
    rows = torch.cat([tables.noised(batch.edited, noise, t), batch.picture], dim=1)
    with autocast("fp32"):
        eps = unet(rows.contiguous(memory_format=torch.channels_last), t, batch.prompts).eps
    yield Part("loss", denoising_loss(eps, noise, tables.a[t], tables.sigma[t]))
    yield Part("eps_mse", (eps.detach() - noise).square().mean(), weight=0.0)


def train(folder: Path, recipe: Recipe = RECIPE, scenes: int = SCENES) -> UNet:
    """The trained network (moving average), from the shipped teacher."""
    make_pairs(folder / PAIRS, scenes)
    pool = PairPool(folder / PAIRS)
    unet = UNet(CONFIG)
    unet.load_state_dict(widened(read_weights(TEACHERS / WEIGHTS)))
    unet = channels_last(unet.to(device()))
    tables = Boundaries(NoiseSchedule.scaled_linear(), device())
    return fit("instruct", folder, recipe, unet, lambda rng, n: loss(unet, pool, tables, rng, n))
