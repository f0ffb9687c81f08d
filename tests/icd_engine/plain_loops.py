"""Plain loops over the networks to compare edits with, and requests to edit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from icd_engine.engine import Engine
from icd_engine.results import EditRequest
from icd_engine.sampling.guidance import dynamic_guidance, guidance_embedding
from icd_engine.sampling.schedule import NoiseSchedule
from icd_engine.settings import EditSettings

SOURCE, TARGET, OTHER = (
    "a cat sits on the mat",
    "a dog sits on the mat",
    "a red bird sits on the mat",
)
ENCODE, DECODE = (19, 259, 519, 779, 999), (999, 779, 519, 259, 0)
# Another batch size sums in another order: about a hundred layers of 6e-8 each, magnified a little
# by every hop.
ROUNDING = 2e-5


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    )


def assert_close(got: Tensor, expected: Tensor, tolerance: float = ROUNDING) -> None:
    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) <= tolerance * float(expected.abs().max())


def prompt_features(engine: Engine, prompt: str) -> Tensor:
    return engine.runner.encode_prompts([engine.model.tokenizer.encode(prompt).ids]).features


@torch.no_grad()
def hop(engine: Engine, unet, x: Tensor, t: int, s: int, prompt: str, w: float) -> Tensor:
    """x_s = a_s (x_t - sigma_t eps) / a_t + sigma_s eps for one row, with two predictions where w
    is not embedded."""
    schedule, time = NoiseSchedule.scaled_linear(), torch.tensor([float(t)])
    features = prompt_features(engine, prompt)
    if unet.guidance_channels is not None:
        eps = unet(
            x, time, features, torch.from_numpy(guidance_embedding([w], unet.guidance_channels))
        ).eps
    else:
        eps, empty = unet(x, time, features).eps, unet(x, time, prompt_features(engine, "")).eps
        eps = empty + (1 + w) * (eps - empty)
    a, sigma = (1.0, 0.0) if s == 0 else (schedule.a(s), schedule.sigma(s))
    return a * (x - schedule.sigma(t) * eps) / schedule.a(t) + sigma * eps


def plain_decode(
    engine: Engine, x: Tensor, prompt: str, w: float = 0.0, tau: float | tuple = 1.0
) -> Tensor:
    for t, s in pairwise(DECODE):
        x = hop(engine, engine.runner.decode_network, x, t, s, prompt, dynamic_guidance(t, w, tau))
    return x


@contextmanager
def recorded(engine: Engine) -> Iterator[dict[str, list]]:
    """Rows of every call of the encode and the decode network, and the time shifts of the decode
    network."""
    seen: dict[str, list] = {"encode": [], "decode": [], "shifts": []}
    stages = engine.runner.stages

    def watched(name, predict):
        def call(latents, shifts, *others):
            seen[name].append(len(latents))
            if name == "decode":
                seen["shifts"].append(shifts)
            return predict(latents, shifts, *others)

        return call

    passes = {
        "encode_pass": watched("encode", stages.encode_pass),
        "decode_pass": watched("decode", stages.decode_pass),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.runner, "stages", stages._replace(**passes))
        yield seen


def mixed_requests() -> list[EditRequest]:
    """Every setting somewhere, beside requests without it."""
    return [
        EditRequest(picture(1), SOURCE, TARGET, EditSettings(seed=1, blend="sits")),
        EditRequest(
            picture(2),
            "a photo of a bird",
            "a photo of a big blue bird",
            EditSettings(amplify={"blue": 3.0}),
        ),
        EditRequest(
            picture(3),
            SOURCE,
            [TARGET, OTHER],
            EditSettings(guidance_scale=9.0, tau=(0.4, 0.9), seed=2),
        ),
        EditRequest(picture(4), SOURCE, OTHER, EditSettings(control="none", mask=np.tri(64))),
        EditRequest(
            picture(1),
            SOURCE,
            SOURCE,
            EditSettings(self_replace=1.0, cross_replace=1.0, guidance_scale=0.0),
        ),
    ]
