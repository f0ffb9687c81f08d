"""One training loop for every stage: any number of processes, a moving average, logs, exact resume.

Many processes: `torchrun --nproc-per-node N -m training ...`, one for each GPU or each CPU core;
they average their gradients.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from icd_engine.errors import SettingsError
from training.checkpoint import Checkpoint
from training.log import Log
from training.processes import Model, average_gradients, device, processes, rank, world_size
from training.recipe import Part, Recipe

SAVE_EVERY_SECONDS = 60.0
Parts = Callable[[np.random.Generator, int], Iterable[Part]]
Check = Callable[[], dict[str, Any]]  # numbers to log, and uint8 pictures [H, W, 3]


def fit(
    name: str, folder: Path, recipe: Recipe, model: Model, parts: Parts, check: Check | None = None
) -> Model:
    """Trains `model` in place by the sum of `parts(rng, batch of this process)` and leaves its
    moving average in it.

    Each part goes backward before the next is asked for, so only one's activations are held: they
    share no graph. `<folder>/<name>.safetensors` is continued; random numbers depend on (seed,
    step, pass, rank) alone, so that a run resumed after any interruption takes the very steps of an
    undisturbed one. check: every `recipe.check_every` steps and at the end, with the average in
    place. SettingsError for a checkpoint of something else, FloatingPointError.
    """
    optimiser, scaler = _optimiser(recipe, model)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(folder / f"{name}.safetensors", model, optimiser, scaler, recipe.ema)
    log = Log(folder, name, recipe)
    step = checkpoint.load()
    saved = time.monotonic()
    share, odd = divmod(recipe.batch, world_size() * recipe.accumulate)
    if odd:
        raise SettingsError(
            f"{name}: batch {recipe.batch} must be a multiple of {recipe.accumulate} x {world_size()}"
        )
    while step < recipe.steps:
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr_at(step)
        for terms in _steps(recipe, parts, step, share):
            if not _descended(checkpoint, recipe, terms, log):
                raise FloatingPointError(
                    f"{name}: gradients are not finite at step {step}; {checkpoint.path} is sound"
                )
        checkpoint.follow()
        step += 1
        last = step == recipe.steps
        log.step(step)
        if rank() == 0 and (time.monotonic() - saved > SAVE_EVERY_SECONDS or last):
            checkpoint.save(step)
            saved = time.monotonic()
        due = recipe.check_every and (step % recipe.check_every == 0 or last)
        if check and due and rank() == 0:
            log.write(step, _checked(checkpoint, check))
    processes().wait_for_everyone()
    checkpoint.settle()
    return model


def _optimiser(
    recipe: Recipe, model: nn.Module
) -> tuple[torch.optim.Optimizer, torch.amp.GradScaler]:
    """AdamW over what learns, and the scaler that half precision needs."""
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        betas=(0.9, 0.99),
        fused=device().type == "cuda",  # on the CPU it is no faster
    )
    return optimiser, torch.amp.GradScaler(device().type, enabled=recipe.precision == "fp16")


def _descended(checkpoint: Checkpoint, recipe: Recipe, terms: Iterable[Part], log: Log) -> bool:
    """One step of the optimiser; False, and nothing changed, where gradients are not finite and no
    scaler leaves such a step out."""
    optimiser = checkpoint.optimiser
    scaler = checkpoint.scaler
    parameters = list(checkpoint.trained.values())
    optimiser.zero_grad(set_to_none=True)
    for part in terms:
        log.add(part.name, float(part.loss.detach()) / recipe.accumulate)
        if part.weight:
            scaler.scale(part.loss * (part.weight / recipe.accumulate)).backward()
    # Before they are looked at, so that every process sees the same
    average_gradients(parameters)
    scaler.unscale_(optimiser)
    norm = float(nn.utils.clip_grad_norm_(parameters, recipe.clip))
    if math.isfinite(norm):
        log.add("norm", norm)
    elif not scaler.is_enabled():
        return False
    scaler.step(optimiser)
    scaler.update()
    return True


def _steps(recipe: Recipe, parts: Parts, step: int, share: int) -> Iterator[Iterable[Part]]:
    """The parts of every optimiser step: all of them at once, or each alone, over all accumulated
    passes."""

    def drawn(index: int) -> Iterable[Part]:
        return parts(np.random.default_rng([recipe.seed, step, index, rank()]), share)

    passes = [iter(drawn(index)) for index in range(recipe.accumulate)]
    if not recipe.alternating:
        yield chain.from_iterable(passes)
        return
    while (first := next(passes[0], None)) is not None:
        yield chain([first], (next(other) for other in passes[1:]))


def _checked(checkpoint: Checkpoint, check: Check) -> dict[str, Any]:
    """`check` with the average in the weights' place."""
    held = {name: p.detach().clone() for name, p in checkpoint.trained.items()}
    checkpoint.settle()
    try:
        with torch.no_grad():
            return check()
    finally:
        with torch.no_grad():
            for name, value in held.items():
                checkpoint.trained[name].copy_(value)
