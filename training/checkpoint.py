"""What a stage goes on from after any interruption: one file, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from icd_engine.errors import SettingsError
from training.processes import Model, device


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
            follow = get_ema_multi_avg_fn(self.ema)
            follow(list(self.average.values()), list(self.trained.values()), None)

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
