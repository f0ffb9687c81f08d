"""Stages 4 and 5 of the embedded model: guidance distillation, then forward and reverse consistency distillation."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from icd_engine.networks.unet import UNet
from icd_engine.sampling.guidance import guidance_embedding
from icd_engine.sampling.schedule import NoiseSchedule
from training import losses, tiny_teacher
from training.loop import Losses, Recipe, channels_last, device, fit
from training.losses import Boundaries

CONFIG = tiny_teacher.CONFIG | {"time_cond_proj_dim": 512}
ENCODE_TIMES = (19, 259, 519, 779)
ENCODE_END = 999
DECODE_TIMES = (259, 519, 779, 999)
MAX_GUIDANCE = 8.0
UNGUIDED = 0.3  # share of samples at w = 0
# Strong preservation losses let the two networks collude: the round trip gains, the noise they meet at stops being
# noise (its deviation shrinks) and generation breaks.
PRESERVATION = 0.4
PRESERVED_SHARE = 0.25  # of each batch also goes through the preservation losses
GUIDANCE_RECIPE = Recipe(samples=20_000, batch=16, lr=3e-4, ema=0.99)
ICD_RECIPE = Recipe(samples=32_000, batch=16, lr=2e-4, ema=0.99)


@dataclass(frozen=True)
class Sample:
    """One batch: scaled latents, their noise and the text features."""

    latents: Tensor
    noise: Tensor
    prompt: Tensor


def guided_network(teacher: UNet) -> UNet:
    """The teacher's weights in a network that takes w; at first it ignores it."""
    network = channels_last(UNet(CONFIG).to(device()))
    missing, unexpected = network.load_state_dict(teacher.state_dict(), strict=False)
    assert missing == ["time_embedding.cond_proj.weight"] and not unexpected
    nn.init.zeros_(network.time_embedding.cond_proj.weight)
    return network


def predict(unet: UNet, x: Tensor, t: Tensor, prompt: Tensor, w: Tensor | None = None) -> Tensor:
    """eps in float32; the network itself runs in bfloat16 where autocast allows it."""
    embedded = None
    if unet.guidance_channels is not None:
        scales = np.zeros(len(x)) if w is None else w.cpu().numpy()
        embedded = torch.from_numpy(guidance_embedding(scales, unet.guidance_channels)).to(x.device)
    with torch.autocast(x.device.type, torch.bfloat16):
        return unet(x.contiguous(memory_format=torch.channels_last), t, prompt, embedded).eps.float()


class Data:
    """Batches from the pool, text features by the teacher's frozen text encoder."""

    def __init__(self, folder: Path, teacher: tiny_teacher.Teacher):
        self.pool = tiny_teacher.Pool(folder)
        self.text = teacher.text.eval().requires_grad_(False)
        self.tables = Boundaries(NoiseSchedule.scaled_linear(), device())

    def draw(self, rng: np.random.Generator, count: int) -> Sample:
        latents, ids = self.pool.draw(rng, count, dropped=False)
        noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32)).to(latents.device)
        return Sample(latents, noise, self.features(ids))

    def features(self, ids: Tensor) -> Tensor:
        with torch.no_grad():
            return self.text(ids)

    def guidance(self, rng: np.random.Generator, count: int) -> Tensor:
        """w uniform up to MAX_GUIDANCE, so that ramps are known too, and often exactly 0."""
        w = np.where(rng.random(count) < UNGUIDED, 0.0, rng.uniform(0, MAX_GUIDANCE, count))
        return torch.from_numpy(w.astype(np.float32)).to(device())


def guidance_loss(student: UNet, teacher: UNet, data: Data, rng: np.random.Generator, count: int) -> Losses:
    """The student's one pass against the teacher's two (classifier-free guidance), at uniform time steps."""
    sample, w = data.draw(rng, count), data.guidance(rng, count)
    t = torch.from_numpy(rng.integers(1, 1000, count)).to(w.device)
    noised = data.tables.noised(sample.latents, sample.noise, t)
    empty = data.features(data.pool.ids([""])).expand(count, -1, -1)
    with torch.no_grad():
        both = predict(teacher, torch.cat([noised] * 2), torch.cat([t] * 2), torch.cat([sample.prompt, empty]))
        conditional, unconditional = both.chunk(2)
        target = losses.guided(conditional, unconditional, w)
    error = (predict(student, noised, t, sample.prompt, w) - target).square().mean()
    return {"loss": error}


class Pair(nn.Module):
    """The two networks of the method: forward (encode) and reverse (decode)."""

    def __init__(self, guided: UNet):
        super().__init__()
        self.forward_net, self.reverse_net = copy.deepcopy(guided), copy.deepcopy(guided)
        self.requires_grad_(True)


def icd_loss(pair: Pair, teacher: UNet, data: Data, rng: np.random.Generator, count: int) -> Losses:
    """Both consistency losses plus both preservation losses, summed as in the paper's equation."""
    tables, place = data.tables, device()
    lower, upper = torch.tensor(ENCODE_TIMES, device=place), torch.tensor(DECODE_TIMES, device=place)
    sample, w = data.draw(rng, count), data.guidance(rng, count)

    t, t_next = (steps.to(place) for steps in losses.reverse_steps(rng, count))
    reverse = losses.consistency_loss(
        lambda x, at: predict(pair.reverse_net, x, at, sample.prompt, w),
        lambda x, at: predict(teacher, x, at, sample.prompt, w),
        tables,
        tables.noised(sample.latents, sample.noise, t),
        t,
        t_next,
        losses.decode_boundary(t_next, DECODE_TIMES[:-1]),
    )
    t, t_next = (steps.to(place) for steps in losses.forward_steps(rng, count, ENCODE_TIMES[0]))
    forward = losses.consistency_loss(
        lambda x, at: predict(pair.forward_net, x, at, sample.prompt),
        lambda x, at: predict(teacher, x, at, sample.prompt),
        tables,
        tables.noised(sample.latents, sample.noise, t),
        t,
        t_next,
        losses.encode_boundary(t_next, (*ENCODE_TIMES[1:], ENCODE_END)),
    )

    part = max(1, int(count * PRESERVED_SHARE))
    latents, noise, prompt = sample.latents[:part], sample.noise[:part], sample.prompt[:part]

    def up(x: Tensor, at: Tensor) -> Tensor:
        return predict(pair.forward_net, x, at, prompt)

    def down(x: Tensor, at: Tensor) -> Tensor:
        return predict(pair.reverse_net, x, at, prompt)

    # Down one segment and up again. The lowest segment ends at clean latents, from which no way up starts.
    level = torch.from_numpy(rng.integers(1, len(upper), part)).to(place)
    high, low = upper[level], upper[level - 1]
    start = tables.noised(latents, noise, high)
    keep_forward = losses.preservation_loss(up, down, tables, start, high, low, high, start)
    # Up one segment and down again; from the first step (noised latents) the way down ends at the clean ones.
    level = torch.from_numpy(rng.integers(0, len(upper), part)).to(place)
    low, high = lower[level], upper[level]
    start = tables.noised(latents, noise, low)
    lowest = (level == 0)[:, None, None, None]
    keep_reverse = losses.preservation_loss(
        down, up, tables, start, low, high, torch.where(level == 0, 0, low), torch.where(lowest, latents, start)
    )
    total = reverse + forward + PRESERVATION * (keep_forward + keep_reverse)
    parts = {"reverse": reverse, "forward": forward, "keep_forward": keep_forward, "keep_reverse": keep_reverse}
    return {"loss": total} | {name: value.detach() for name, value in parts.items()}


def train_guidance(folder: Path, teacher: tiny_teacher.Teacher, recipe: Recipe = GUIDANCE_RECIPE) -> UNet:
    """The w-embedded network (moving average)."""
    torch.manual_seed(recipe.seed)
    data, frozen = Data(folder, teacher), teacher.unet.eval().requires_grad_(False)
    student = guided_network(frozen)
    return fit("guided", folder, recipe, student, lambda rng, n: guidance_loss(student, frozen, data, rng, n))


def train_icd(folder: Path, teacher: tiny_teacher.Teacher, guided: UNet, recipe: Recipe = ICD_RECIPE) -> Pair:
    """Forward and reverse networks (moving average)."""
    torch.manual_seed(recipe.seed)
    data, frozen = Data(folder, teacher), guided.eval().requires_grad_(False)
    pair = Pair(frozen)
    return fit("icd", folder, recipe, pair, lambda rng, n: icd_loss(pair, frozen, data, rng, n))
