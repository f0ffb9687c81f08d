"""InstructPix2Pix (Brooks et al., arXiv 2211.09800): a network trained on edits, which sees the
picture's latents beside the noisy ones."""

from __future__ import annotations

import torch

from benchmarks.evaluation.diffusion import Diffusion, down, levels
from benchmarks.evaluation.tasks import EditTask, Outcome


def ip2p(model: Diffusion, task: EditTask) -> Outcome:
    """50 DDIM steps from noise, three predictions each: of nothing, of the picture, of picture and
    text (equation 3 of the paper).

    The text is the instruction where the task has one, else the target. The picture's latents are
    not scaled by the VAE's factor, as in the paper.
    """
    text = model.features(task.instruction or task.target)
    empty = model.features("")
    picture = task.latents / model.scaling_factor
    x = model.noise(1000 * task.seed, task.latents)
    for t, s in down(levels()):
        without = torch.cat([x, torch.zeros_like(picture)], dim=1)
        beside = torch.cat([x, picture], dim=1)
        nothing = model.eps(without, t, empty)
        seen = model.eps(beside, t, empty)
        asked = model.eps(beside, t, text)
        eps = nothing + task.scales.picture * (seen - nothing) + task.scales.text * (asked - seen)
        x = model.step(x, eps, t, s)
    return Outcome(task.latents, x)
