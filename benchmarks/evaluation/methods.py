"""Text-guided editing as others do it, on the same pictures and prompts; each names its paper.

A method takes a Diffusion and a EditTask and returns latents of the reconstruction and of the edit.
Guidance w is in code notation throughout (0 = unguided).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.evaluation.diffusion import Diffusion, down, levels
from icd_engine.editing.plan import EditStep, edit_steps, make_plan
from icd_engine.settings import EditSettings

SDEDIT_STRENGTH = 0.7
FRIENDLY_SKIP = 0.36  # share of the steps at the top that edit-friendly DDPM leaves out
FRIENDLY_SOURCE_W = 2.5
INFEDIT_STEPS = 12
RENOISE_STEPS = 10
RENOISE_REPEATS = 9
NULL_STEPS = 10  # of optimisation for each time step


@dataclass(frozen=True)
class EditTask:
    """One edit: clean latents [1, 4, h, w], prompts, guidance, and the shares of prompt-to-prompt
    control."""

    latents: Tensor
    source: str
    target: str
    w: float
    cross_replace: float = 0.4
    self_replace: float = 0.5
    seed: int = 0


class Outcome(NamedTuple):
    reconstruction: Tensor
    edited: Tensor


def plans(model: Diffusion, task: EditTask, steps: int) -> list[EditStep]:
    """Prompt-to-prompt (Hertz et al., arXiv 2208.01626) for rows [source, target] at each of
    `steps`."""
    settings = EditSettings(
        control="auto",
        cross_replace=task.cross_replace,
        self_replace=task.self_replace,
        amplify=None,
    )
    tokenizer = model.engine.model.tokenizer
    plan = make_plan(tokenizer.encode(task.source), tokenizer.encode(task.target), settings, steps)
    return edit_steps([plan], [0], model.engine.runner.tensor)


def ddim_inversion(model: Diffusion, task: EditTask) -> list[Tensor]:
    """Latents at every level, by DDIM backwards with the source prompt, unguided (Song et al.,
    arXiv 2010.02502)."""
    prompt = model.features(task.source)
    track = [task.latents]
    times = levels()
    for s, t in pairwise(times):
        track.append(model.step(track[-1], model.eps(track[-1], t, prompt), s, t))
    return track


def _decode(
    model: Diffusion,
    task: EditTask,
    start: Tensor,
    against: Callable[[int], Tensor],
    edits: list[EditStep] | None,
    source_w: float,
) -> Outcome:
    """50 DDIM steps down, rows [source, target]; against(k): what guidance leads away from, [2, n,
    C]."""
    prompts = model.features(task.source, task.target)
    x = start.repeat(2, 1, 1, 1)
    weights = torch.tensor([source_w, task.w], device=x.device)
    for k, (t, s) in enumerate(down(levels())):
        eps = model.guided(x, t, prompts, against(k), weights, None if edits is None else edits[k])
        x = model.step(x, eps, t, s)
    return Outcome(x[:1], x[1:])


def ddim(model: Diffusion, task: EditTask) -> Outcome:
    """DDIM inversion, then the target prompt with classifier-free guidance."""
    empty = model.features("", "")
    return _decode(model, task, ddim_inversion(model, task)[-1], lambda k: empty, None, task.w)


def ddim_p2p(model: Diffusion, task: EditTask) -> Outcome:
    """The same with prompt-to-prompt."""
    empty = model.features("", "")
    edits = plans(model, task, len(levels()) - 1)
    return _decode(model, task, ddim_inversion(model, task)[-1], lambda k: empty, edits, task.w)


def negative_prompt_inversion(model: Diffusion, task: EditTask) -> Outcome:
    """The source prompt in place of the empty one (Miyake et al., arXiv 2305.16807), with
    prompt-to-prompt."""
    source = model.features(task.source, task.source)
    edits = plans(model, task, len(levels()) - 1)
    return _decode(model, task, ddim_inversion(model, task)[-1], lambda k: source, edits, task.w)


def null_text_inversion(model: Diffusion, task: EditTask) -> Outcome:
    """The empty prompt's features optimised at every step so that the guided source branch follows
    the inversion (Mokady et al., arXiv 2211.09794), with prompt-to-prompt."""
    track = ddim_inversion(model, task)
    prompt = model.features(task.source)
    null = model.features("")
    found = []
    x = track[-1]
    wanted = track[-2::-1]
    for k, (t, s) in enumerate(down(levels())):
        null = null.detach().requires_grad_(True)
        optimizer = torch.optim.Adam([null], lr=1e-2 * (1 - k / 100))
        conditional = model.eps(x, t, prompt).detach()
        with torch.enable_grad():
            for _ in range(NULL_STEPS):
                eps = conditional + task.w * (conditional - model.eps(x, t, null))
                loss = F.mse_loss(model.step(x, eps, t, s), wanted[k])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if float(loss.detach()) < 1e-5 + k * 2e-5:
                    break
        null = null.detach()
        found.append(null)
        x = model.step(x, conditional + task.w * (conditional - model.eps(x, t, null)), t, s)
    edits = plans(model, task, len(found))
    return _decode(model, task, track[-1], lambda k: found[k].expand(2, -1, -1), edits, task.w)


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


def renoise(model: Diffusion, task: EditTask) -> Outcome:
    """Each inversion step repeated at the point it leads to, and averaged (Garibi et al., arXiv
    2403.14602)."""
    times = levels(RENOISE_STEPS)
    prompt = model.features(task.source)
    x = task.latents
    for s, t in pairwise(times):
        ahead, found = x, []
        for _ in range(RENOISE_REPEATS):
            found.append(model.eps(ahead, t, prompt))
            ahead = model.step(x, found[-1], s, t)
        x = model.step(x, torch.stack(found[-4:]).mean(0), s, t)
    prompts = model.features(task.source, task.target)
    empty = model.features("", "")
    weights = torch.tensor([0.0, task.w], device=x.device)
    edits = plans(model, task, RENOISE_STEPS)
    x = x.repeat(2, 1, 1, 1)
    for k, (t, s) in enumerate(down(times)):
        x = model.step(x, model.guided(x, t, prompts, empty, weights, edits[k]), t, s)
    return Outcome(x[:1], x[1:])


def sdedit(model: Diffusion, task: EditTask) -> Outcome:
    """Noised part of the way and denoised towards the target (Meng et al., arXiv 2108.01073)."""
    times = [t for t in levels() if t <= model.tables.schedule.steps * SDEDIT_STRENGTH]
    target = model.features(task.target)
    empty = model.features("")
    x = model.noised(task.latents, model.noise(1000 * task.seed, task.latents), times[-1])
    for t, s in down(times):
        x = model.step(x, model.guided(x, t, target, empty, task.w), t, s)
    return Outcome(task.latents, x)


METHODS: dict[str, Callable[[Diffusion, EditTask], Outcome]] = {
    "ddim": ddim,
    "ddim+p2p": ddim_p2p,
    "npi": negative_prompt_inversion,
    "nti": null_text_inversion,
    "edit-friendly": edit_friendly_ddpm,
    "infedit": infedit,
    "renoise": renoise,
    "sdedit": sdedit,
}
