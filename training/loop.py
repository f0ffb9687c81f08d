"""One training loop for every stage: any number of processes, a moving average, logs, exact resume.

Many processes: `torchrun --nproc-per-node N -m training ...`, one for each GPU or each CPU core;
they average their gradients.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from icd_engine.errors import SettingsError

if TYPE_CHECKING:
    from accelerate import PartialState

SAVE_EVERY_SECONDS = 60.0
LOG_EVERY_SECONDS = 15.0
Model = TypeVar("Model", bound=nn.Module)


class Part(NamedTuple):
    """A term of a loss; one of weight 0 is only logged."""

    name: str
    loss: Tensor
    weight: float = 1.0


Parts = Callable[[np.random.Generator, int], Iterable[Part]]
Check = Callable[[], dict[str, Any]]  # numbers to log, and uint8 pictures [H, W, 3]


@dataclass(frozen=True)
class Recipe:
    """How long and how fast a stage trains.

    batch: samples of a step, over all processes and accumulated passes. ema: decay of the moving
    average, None for none. alternating: an optimiser step after every part of the loss, as the
    reference does, instead of one after their sum, as the paper's equation has it.
    """

    samples: int
    batch: int
    lr: float
    warmup: int = 100
    cosine: bool = True
    ema: float | None = 0.998
    clip: float = 1.0
    weight_decay: float = 0.0
    seed: int = 0
    accumulate: int = 1
    alternating: bool = False
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    check_every: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "batch", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.batch % self.accumulate:
            raise ValueError(
                f"batch {self.batch} must be a multiple of accumulate {self.accumulate}"
            )

    @property
    def steps(self) -> int:
        return math.ceil(self.samples / self.batch)

    def lr_at(self, step: int) -> float:
        """Linear warm-up, then constant or a cosine down to a hundredth."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if not self.cosine:
            return self.lr
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def processes() -> PartialState:
    """This process among the others, which the first call joins."""
    from accelerate import PartialState  # here, for machines that evaluate and do not train

    return PartialState(cpu=not torch.cuda.is_available())


def rank() -> int:
    return processes().process_index


def world_size() -> int:
    return processes().num_processes


def device() -> torch.device:
    found = processes().device
    assert found is not None
    return found


def autocast(precision: str = "bf16") -> torch.autocast:
    """Where matrix products run in half precision ("fp32": nowhere); weights, losses and latents
    stay float32."""
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device().type, half, enabled=half is not None)


def channels_last(module: Model) -> Model:
    """The module with its weights channels-last, the faster layout for convolutions."""
    return module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # torch's stubs lack it


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Mean of the gradients over all processes, as one flat message."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if world_size() == 1 or not gradients:
        return
    from accelerate.utils import reduce

    flat = reduce(torch.cat([g.flatten() for g in gradients]), "mean")
    assert isinstance(flat, Tensor)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


class Checkpoint:
    """One safetensors file that holds all a stage goes on from: weights, their average, optimiser,
    scaler, step."""

    def __init__(
        self,
        path: Path,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        ema: float | None,
    ):
        self.path = path
        self.model = model
        self.optimiser = optimiser
        self.scaler = scaler
        self.ema = ema
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average = (
            {name: p.detach().clone() for name, p in self.trained.items()}
            if ema is not None
            else {}
        )

    def load(self) -> int:
        """The step to go on from: 0 where there is no file."""
        if not self.path.exists():
            return 0
        with safe_open(self.path, "pt") as file:
            groups = {name: tensors(file, name) for name in ("model", "average", "optimiser")}
            header = file.metadata()
        self.scaler.load_state_dict(json.loads(header["scaler"]))
        restore(self.model, groups["model"])
        if groups["average"].keys() != self.average.keys():
            raise SettingsError(f"{self.path} was trained with another moving average (ema)")
        self.average = {name: groups["average"][name].to(device()) for name in self.average}
        state = self.optimiser.state_dict()
        state["state"] = {}
        for key, value in groups["optimiser"].items():
            index, _, name = key.partition(".")
            state["state"].setdefault(int(index), {})[name] = value
        self.optimiser.load_state_dict(state)
        return int(header["step"])

    def save(self, step: int) -> None:
        """Whole or not at all."""
        held = {f"model.{name}": value for name, value in learnt(self.model).items()}
        held |= {f"average.{name}": value for name, value in self.average.items()}
        for index, values in self.optimiser.state_dict()["state"].items():
            held |= {f"optimiser.{index}.{name}": value for name, value in values.items()}
        temporary = self.path.with_suffix(f".tmp{os.getpid()}")
        header = {"step": str(step), "scaler": json.dumps(self.scaler.state_dict())}
        save_file({k: v.detach().contiguous() for k, v in held.items()}, temporary, metadata=header)
        os.replace(temporary, self.path)

    @torch.no_grad()
    def follow(self) -> None:
        """Moves the average towards the weights."""
        if self.ema is not None:
            torch._foreach_lerp_(
                list(self.average.values()), list(self.trained.values()), 1 - self.ema
            )

    @torch.no_grad()
    def settle(self) -> None:
        """Puts the average in the weights' place."""
        for name, value in self.average.items():
            self.trained[name].copy_(value)


def tensors(file: Any, group: str) -> dict[str, Tensor]:
    """Those of an open safetensors file whose names start with `group.`, without it."""
    return {
        key.removeprefix(f"{group}."): file.get_tensor(key)
        for key in file.keys()  # noqa: SIM118  # a safetensors file is no mapping
        if key.startswith(f"{group}.")
    }


def learnt(model: nn.Module) -> dict[str, Tensor]:
    """What training changes: parameters that are not frozen, and buffers."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def restore(model: nn.Module, values: dict[str, Tensor]) -> None:
    """Loads what `learnt` gave. SettingsError naming what does not fit."""
    own = learnt(model)
    for key in sorted(own.keys() | values.keys()):
        if key not in own or key not in values or own[key].shape != values[key].shape:
            raise SettingsError(
                f"the checkpoint is of another model or configuration: {key!r} does not fit"
            )
    model.load_state_dict(values, strict=False)


def trained(path: Path, model: Model) -> Model:
    """A finished stage's weights, averaged where it averaged, loaded into `model`."""
    with safe_open(path, "pt") as file:
        restore(model, tensors(file, "model") | tensors(file, "average"))
    return model.to(device()).eval()


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
    parameters = [p for p in model.parameters() if p.requires_grad]
    fused = device().type == "cuda"  # on the CPU it is no faster
    optimiser = torch.optim.AdamW(
        parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.99), fused=fused
    )
    scaler = torch.amp.GradScaler(device().type, enabled=recipe.precision == "fp16")
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
            elif not scaler.is_enabled():  # a scaler leaves such a step out
                raise FloatingPointError(
                    f"{name}: gradients are not finite at step {step}; {checkpoint.path} is sound"
                )
            scaler.step(optimiser)
            scaler.update()
        checkpoint.follow()
        step += 1
        last = step == recipe.steps
        log.step(step)
        if rank() == 0 and (time.monotonic() - saved > SAVE_EVERY_SECONDS or last):
            checkpoint.save(step)
            saved = time.monotonic()
        if (
            check
            and recipe.check_every
            and (step % recipe.check_every == 0 or last)
            and rank() == 0
        ):
            log.write(step, _checked(checkpoint, check))
    processes().wait_for_everyone()
    checkpoint.settle()
    return model


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
