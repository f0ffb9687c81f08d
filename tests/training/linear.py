"""A small linear map to train."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from training.loop import fit
from training.recipe import Part, Recipe

ROOT = Path(__file__).parents[2]
RECIPE = Recipe(samples=80, batch=4, lr=0.1, warmup=3, ema=0.9, weight_decay=0.01)


def train(folder, recipe, steps=None, check=None, spoil=None):
    """Fits a small linear map to noisy data drawn from the loop's generator; stops hard after
    `steps`."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    taken = 0

    def parts(rng, count):
        nonlocal taken
        if taken == steps:
            raise KeyboardInterrupt
        taken += 1
        x = torch.from_numpy(rng.standard_normal((count, 3))).float()
        if taken == spoil:
            x = x / 0

        def error():
            return model(x) - x[:, :2] * 2

        yield Part("squared", error().square().mean())
        yield Part("absolute", error().abs().mean(), weight=0.5)
        yield Part("watched", error().abs().max(), weight=0.0)

    fit("linear", folder, recipe, model, parts, check and (lambda: check(model)))
    return model


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "linear.safetensors")


def frozen_bias() -> nn.Linear:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    return model
