"""What a run says of itself: a line of numbers every while, pictures in TensorBoard."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.processes import rank
from training.recipe import Recipe

LOG_EVERY_SECONDS = 15.0


class Log:
    """`<name>.jsonl` beside the checkpoint, and TensorBoard where it is installed; written by the
    first process."""

    def __init__(self, folder: Path, name: str, recipe: Recipe):
        self.file = folder / f"{name}.jsonl"
        self.recipe = recipe
        self.sums: dict[str, float] = {}
        self.started = self.logged = time.monotonic()
        self.first: int | None = None
        self.board = _board(folder / "tensorboard" / name) if rank() == 0 else None

    def add(self, name: str, value: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value

    def step(self, step: int) -> None:
        """After step number `step`: a line every while, and at the end."""
        self.first = step - 1 if self.first is None else self.first
        now = time.monotonic()
        count = step - self.first
        if rank() or (now - self.logged < LOG_EVERY_SECONDS and step < self.recipe.steps):
            return
        means = {key: round(total / count, 6) for key, total in self.sums.items()}
        speed = {
            "ms_per_sample": round(1000 * (now - self.logged) / (count * self.recipe.batch), 2)
        }
        if torch.cuda.is_available():
            speed["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        self.write(step, means | speed | {"seconds": round(now - self.started)})
        self.sums = {}
        self.logged = now
        self.first = step

    def write(self, step: int, found: dict[str, Any]) -> None:
        """One line of numbers; pictures go to TensorBoard alone."""
        numbers = {key: value for key, value in found.items() if not isinstance(value, np.ndarray)}
        record = {
            "step": step,
            "of": self.recipe.steps,
            "samples": step * self.recipe.batch,
        } | numbers
        with self.file.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self.board is None:
            return
        for key, value in found.items():
            if isinstance(value, np.ndarray):
                self.board.add_image(key, value, step, dataformats="HWC")
            else:
                self.board.add_scalar(key, value, step)
        self.board.flush()


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
