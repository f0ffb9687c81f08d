"""Methods that noise the picture's latents and lead the edit down beside them."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.evaluation.diffusion import Diffusion, down, levels
from benchmarks.evaluation.inverting import plans
from benchmarks.evaluation.tasks import EditTask, Outcome

SDEDIT_STRENGTH = 0.7
FRIENDLY_SKIP = 0.36  # share of the steps at the top that edit-friendly DDPM leaves out
FRIENDLY_SOURCE_W = 2.5
INFEDIT_STEPS = 12


def edit_friendly_ddpm(model: Diffusion, task: EditTask) -> Outcome:
    """Noise maps of independently noised latents (Huberman-Spiegelglas et al., arXiv
    2304.06140)."""
    times = levels()
    top = len(times) - 1 - round(FRIENDLY_SKIP * (len(times) - 1))
    source, target, empty = (model.features(text) for text in (task.source, task.target, ""))
    noisy = [task.latents]
    for k, t in enumerate(times[1 : top + 1]):
        noisy.append(model.noised(task.latents, model.noise(1000 * task.seed + k, task.latents), t))
    kept = noisy[top]
    x = noisy[top]
    for k in range(top, 0, -1):
        t = times[k]
        s = times[k - 1]
        mean, spread = _ddpm(
            model, noisy[k], model.guided(noisy[k], t, source, empty, FRIENDLY_SOURCE_W), t, s
        )
        z = (noisy[k - 1] - mean) / spread if spread else torch.zeros_like(mean)
        mean, _ = _ddpm(model, x, model.guided(x, t, target, empty, task.w), t, s)
        x = mean + spread * z
        kept = (
            noisy[k - 1]
            if spread
            else _ddpm(model, kept, model.guided(kept, t, source, empty, FRIENDLY_SOURCE_W), t, s)[
                0
            ]
        )
    return Outcome(kept, x)


def _ddpm(model: Diffusion, x: Tensor, eps: Tensor, t: int, s: int) -> tuple[Tensor, float]:
    """Mean and deviation of a DDIM step with eta = 1."""
    ratio = (model.a(t) / model.a(s)) ** 2
    spread = model.sigma(s) / model.sigma(t) * (1 - ratio) ** 0.5
    clean = (x - model.sigma(t) * eps) / model.a(t)
    return model.a(s) * clean + max(model.sigma(s) ** 2 - spread**2, 0.0) ** 0.5 * eps, spread


def infedit(model: Diffusion, task: EditTask) -> Outcome:
    """Virtual inversion: the target follows the source's known noise (Xu et al., arXiv 2312.04965),
    with prompt-to-prompt."""
    times = levels(INFEDIT_STEPS)
    prompts = model.features(task.source, task.target)
    empty = model.features("", "")
    edits = plans(model, task, len(times) - 1)
    edited = task.latents
    weights = torch.tensor([0.0, task.w], device=task.latents.device)
    noise = model.noise(1000 * task.seed, task.latents)
    x = model.noised(task.latents, noise, times[-1])
    for k, (t, s) in enumerate(down(times)):
        rows = torch.cat([model.noised(task.latents, noise, t), x])
        eps = model.guided(rows, t, prompts, empty, weights, edits[k])
        edited = (x - model.sigma(t) * (eps[1:] - eps[:1] + noise)) / model.a(t)
        noise = model.noise(1000 * task.seed + k + 1, task.latents)
        x = model.noised(edited, noise, s)
    return Outcome(task.latents, edited)


def sdedit(model: Diffusion, task: EditTask) -> Outcome:
    """Noised part of the way and denoised towards the target (Meng et al., arXiv 2108.01073)."""
    times = [t for t in levels() if t <= model.tables.schedule.steps * SDEDIT_STRENGTH]
    target = model.features(task.target)
    empty = model.features("")
    x = model.noised(task.latents, model.noise(1000 * task.seed, task.latents), times[-1])
    for t, s in down(times):
        x = model.step(x, model.guided(x, t, target, empty, task.w), t, s)
    return Outcome(task.latents, x)
