"""Methods that invert a picture by DDIM (Song et al., arXiv 2010.02502) and decode it again, rows
[source, target]."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.evaluation.diffusion import Diffusion, down, levels
from benchmarks.evaluation.tasks import EditTask, Outcome
from icd_engine.editing.plan import EditStep, edit_steps, make_plan
from icd_engine.networks.text_encoder import PromptFeatures
from icd_engine.settings import EditSettings

RENOISE_STEPS = 10
RENOISE_REPEATS = 9
NULL_STEPS = 10  # of optimisation for each time step


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


def decode(
    model: Diffusion,
    task: EditTask,
    start: Tensor,
    against: Callable[[int], PromptFeatures],
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
    return decode(model, task, ddim_inversion(model, task)[-1], lambda k: empty, None, task.w)


def ddim_p2p(model: Diffusion, task: EditTask) -> Outcome:
    """The same with prompt-to-prompt."""
    empty = model.features("", "")
    edits = plans(model, task, len(levels()) - 1)
    return decode(model, task, ddim_inversion(model, task)[-1], lambda k: empty, edits, task.w)


def negative_prompt_inversion(model: Diffusion, task: EditTask) -> Outcome:
    """The source prompt in place of the empty one (Miyake et al., arXiv 2305.16807), with
    prompt-to-prompt."""
    source = model.features(task.source, task.source)
    edits = plans(model, task, len(levels()) - 1)
    return decode(model, task, ddim_inversion(model, task)[-1], lambda k: source, edits, task.w)


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
        null = null._replace(tokens=null.tokens.detach().clone().requires_grad_(True))
        optimizer = torch.optim.Adam([null.tokens], lr=1e-2 * (1 - k / 100))
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
        null = null._replace(tokens=null.tokens.detach())
        found.append(null)
        x = model.step(x, conditional + task.w * (conditional - model.eps(x, t, null)), t, s)
    edits = plans(model, task, len(found))
    return decode(model, task, track[-1], lambda k: found[k], edits, task.w)


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
