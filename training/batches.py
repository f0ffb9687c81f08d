"""Batches of a distillation: latents, their noise and prompts, drawn from the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from icd_engine.networks.text_encoder import PromptFeatures
from training.base import Base
from training.latents import Latents
from training.losses import Boundaries
from training.processes import device


class Sample(NamedTuple):
    """One batch: scaled latents [B, 4, h, w], their noise, and the prompts."""

    latents: Tensor
    noise: Tensor
    prompt: PromptFeatures

    def part(self, count: int) -> Sample:
        return Sample(self.latents[:count], self.noise[:count], some(self.prompt, count))


class Data(Protocol):
    """Where batches come from."""

    tables: Boundaries

    def draw(self, rng: np.random.Generator, count: int) -> Sample: ...

    def empty_prompts(self, count: int) -> PromptFeatures: ...


class CachedData:
    """Batches from the cache of latents; prompts go through the base's text encoders as they are
    drawn."""

    def __init__(self, base: Base, latents: Latents):
        self._base = base
        self._latents = latents
        self.tables = Boundaries(base.schedule, device())

    def draw(self, rng: np.random.Generator, count: int) -> Sample:
        latents, captions = self._latents.draw(rng, count)
        noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32)).to(
            latents.device
        )
        return Sample(
            latents * self._base.scaling_factor, noise, self._base.encode_prompts(captions)
        )

    def empty_prompts(self, count: int) -> PromptFeatures:
        return self._base.empty_prompts(count)


def some(prompt: PromptFeatures, count: int) -> PromptFeatures:
    """The first `count` rows."""
    return PromptFeatures(
        prompt.tokens[:count], None if prompt.pooled is None else prompt.pooled[:count]
    )


def joined(prompts: Sequence[PromptFeatures]) -> PromptFeatures:
    """Row after row."""
    pooled = [prompt.pooled for prompt in prompts if prompt.pooled is not None]
    return PromptFeatures(
        torch.cat([prompt.tokens for prompt in prompts]), torch.cat(pooled) if pooled else None
    )
