"""One training loop for every stage: gradients averaged over processes, moving average, logs, exact resume."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

SAVE_EVERY_SECONDS = 60.0
Losses = dict[str, Tensor]
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Recipe:
    """How long and how fast a stage trains; `batch` is summed over the processes."""

    samples: int
    batch: int
    lr: float
    warmup: int = 100
    ema: float = 0.998
    clip: float = 1.0
    weight_decay: float = 0.0
    seed: int = 0

    @property
    def steps(self) -> int:
        return math.ceil(self.samples / self.batch)

    def lr_at(self, step: int) -> float:
        """Linear warm-up, then a cosine down to a hundredth."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _worker(index: int, workers: int, rendezvous: str, work: Callable[..., None], args: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=index, world_size=workers, timeout=timedelta(hours=2)
    )
    try:
        work(*args)
    finally:
        dist.destroy_process_group()


def launch(work: Callable[..., None], workers: int, folder: Path, *args: object) -> None:
    """Runs `work(*args)` in `workers` single-threaded processes that average their gradients (1: in this process).

    Two such processes beat one with two threads whenever anything else runs on the machine.
    """
    if workers == 1:
        return work(*args)
    folder.mkdir(parents=True, exist_ok=True)
    rendezvous = folder / "rendezvous"
    rendezvous.unlink(missing_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that stopping this process stops the workers too
    torch.multiprocessing.spawn(_worker, (workers, str(rendezvous.resolve()), work, args), nprocs=workers, daemon=True)
    rendezvous.unlink(missing_ok=True)


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Mean of the gradients over all processes, as one flat message."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def channels_last(module: Model) -> Model:
    """The module with its weights channels-last, the faster layout for convolutions."""
    return module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # torch's stubs lack it


def save_atomically(state: object, path: Path) -> None:
    """torch.save through a temporary file beside `path`."""
    temporary = path.with_suffix(f".tmp{os.getpid()}")
    torch.save(state, temporary)
    os.replace(temporary, path)


def fit(
    name: str,
    folder: Path,
    recipe: Recipe,
    model: Model,
    loss: Callable[[np.random.Generator, int], Losses],
) -> Model:
    """Trains `model` in place by `loss(rng, batch of this process)` and returns its moving average.

    The first entry of the losses is minimised, all are logged to `<folder>/<name>.jsonl`. The state of `<name>.pt` is
    continued; random numbers depend on (seed, step, rank) alone, so a resumed run takes the same steps.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.99))
    averaged = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.ema)
    )
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, log = folder / f"{name}.pt", folder / f"{name}.jsonl"
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device())
        model.load_state_dict(state["model"])
        averaged.load_state_dict(state["averaged"])
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
    sums: dict[str, float] = {}
    started, logged, saved, logged_step = time.monotonic(), time.monotonic(), time.monotonic(), step
    while step < recipe.steps:
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr_at(step)
        rng = np.random.default_rng([recipe.seed, step, rank()])
        losses = loss(rng, recipe.batch // world_size())
        optimiser.zero_grad(set_to_none=True)
        next(iter(losses.values())).backward()
        average_gradients(parameters)
        sums["norm"] = sums.get("norm", 0.0) + float(nn.utils.clip_grad_norm_(parameters, recipe.clip))
        optimiser.step()
        averaged.update_parameters(model)
        step += 1
        for key, value in losses.items():
            sums[key] = sums.get(key, 0.0) + float(value.detach())
        now, last = time.monotonic(), step == recipe.steps
        if rank() == 0 and (now - logged > 15 or last):
            count = step - logged_step
            record = {"step": step, "of": recipe.steps, "samples": step * recipe.batch}
            record |= {key: round(total / count, 6) for key, total in sums.items()}
            record |= {"ms_per_sample": round(1000 * (now - logged) / (count * recipe.batch), 2)}
            with log.open("a") as file:
                file.write(json.dumps(record | {"seconds": round(now - started)}) + "\n")
            sums, logged, logged_step = {}, now, step
        if rank() == 0 and (now - saved > SAVE_EVERY_SECONDS or last):
            state = {
                "model": model.state_dict(),
                "averaged": averaged.state_dict(),
                "optimiser": optimiser.state_dict(),
            }
            save_atomically(state | {"step": step}, checkpoint)
            saved = time.monotonic()
    if world_size() > 1:
        dist.barrier()
    return averaged.module  # pyright: ignore[reportReturnType]  # the module it was made of
