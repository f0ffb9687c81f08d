"""Toy networks whose hops and gradients can be written out."""

from types import SimpleNamespace

import numpy as np
import torch

from icd_engine.networks.text_encoder import PromptFeatures
from icd_engine.sampling.schedule import NoiseSchedule
from training import losses
from training.batches import Sample

ALPHAS = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
SHAPE = (6, 2, 3, 3)
# Of scale, shift, gain of w and of the prompt; the losses see them in one expression.
TEACHER, FORWARD, REVERSE = (0.2, -0.4, 0.03, 0.5), (0.25, 0.3, 0.02, 0.4), (0.3, 0.5, 0.01, -0.2)


def a_sigma(t):
    return (1.0, 0.0) if t == 0 else (ALPHAS[t] ** 0.5, (1 - ALPHAS[t]) ** 0.5)


def noised(x, noise, t):
    a, sigma = a_sigma(t)
    return a * x + sigma * noise


def hop(x, eps, t, s):
    """0 is the clean picture as an end, and the schedule's first step as a start."""
    (a_t, sigma_t), (a_s, sigma_s) = (ALPHAS[t] ** 0.5, (1 - ALPHAS[t]) ** 0.5), a_sigma(s)
    return a_s * (x - sigma_t * eps) / a_t + sigma_s * eps


def eps(numbers, x, t, w, prompt):
    scale, shift, gain, word = numbers
    return scale * x + shift * t / 1000 + gain * w + word * prompt


def huber(d):
    return (np.sqrt(d**2 + 1e-6) - 1e-3).mean()


class Toy(torch.nn.Module):
    """Three networks of four numbers each, in float64, that note what they are asked."""

    def __init__(self, trained=("forward", "reverse")):
        super().__init__()
        self.numbers, self.calls = {}, []
        for role, values in (("teacher", TEACHER), ("forward", FORWARD), ("reverse", REVERSE)):
            numbers = torch.nn.Parameter(
                torch.tensor(values, dtype=torch.float64), requires_grad=role in trained
            )
            self.register_parameter(f"{role}_numbers", numbers)
            self.numbers[role] = numbers

    def eps(self, role, x, t, prompt, w=None):
        w = torch.zeros(len(x)) if w is None else w
        self.calls.append(SimpleNamespace(role=role, t=t.tolist(), w=w.tolist()))
        column = (len(x), 1, 1, 1)
        return eps(
            self.numbers[role], x, t.view(column), w.view(column), prompt.tokens.view(column)
        )


class ToyData:
    """The same batch again and again."""

    def __init__(self, shape=SHAPE):
        rng = np.random.default_rng(3)
        self.latents, self.noise = rng.standard_normal((2, *shape))
        self.words = rng.standard_normal(shape[0])
        self.tables = losses.Boundaries(NoiseSchedule.scaled_linear(), dtype=torch.float64)

    def draw(self, rng, count):
        tensors = (torch.from_numpy(x[:count]) for x in (self.latents, self.noise, self.words))
        latents, noise, words = tensors
        return Sample(latents, noise, PromptFeatures(words))

    def empty_prompts(self, count):
        return PromptFeatures(torch.zeros(count, dtype=torch.float64))


def gradient(function, numbers, step=1e-6):
    """Central differences."""
    found = []
    for i in range(len(numbers)):
        ahead, behind = (
            [v + sign * step * (k == i) for k, v in enumerate(numbers)] for sign in (1, -1)
        )
        found.append((function(ahead) - function(behind)) / (2 * step))
    return np.array(found)
