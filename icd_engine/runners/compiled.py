"""The compiled runner: the same path through code that torch.compile makes of the networks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from icd_engine.errors import RunnerError
from icd_engine.placement import PLAIN, Placement
from icd_engine.runners import inductor
from icd_engine.runners.buckets import Padded, filled, of_rows, take, take_prompts
from icd_engine.runners.contract import Decoded, DecodeInputs, Prompts, StepCallback
from icd_engine.runners.eager import EagerRunner
from icd_engine.runners.stages import Stages, TorchNetworks
from icd_engine.sampling.schedule import Hop


def compiled_stages(stages: Stages, networks: TorchNetworks, level: str) -> Stages:
    """The networks' passes and the VAE's stages compiled; hops and prompts run as they are.

    level: of `Placement.compile`.
    """
    compiled = partial(
        inductor.compile_stage,
        device=networks.device,
        level=level,
        shortcut=inductor.is_tested(),
    )
    return stages._replace(
        to_moments=compiled(stages.to_moments),
        to_image=compiled(stages.to_image),
        to_pixels=compiled(stages.to_pixels),
        encode_pass=compiled(stages.encode_pass),
        decode_pass=compiled(stages.decode_pass),
    )


class CompiledRunner(EagerRunner):
    """Rows are filled up to fixed batch sizes; the program of each is compiled when it first runs,
    which takes a minute, or many where `Placement.compile` says so.

    Raises RunnerError where there is no compiler.
    """

    name = "compiled"
    warms_up = True
    reference = False

    def __init__(self, networks: TorchNetworks, placement: Placement = PLAIN):
        device = networks.device
        if not can_compile(device):
            needed = "triton" if device.type == "cuda" else "a C++ compiler (g++, clang++ or $CXX)"
            raise RunnerError(f"runner {self.name!r} needs {needed}: none was found")
        self._level = placement.compile
        super().__init__(networks, placement)

    def _make_stages(self, networks: TorchNetworks) -> Stages:
        return compiled_stages(super()._make_stages(networks), networks, self._level)

    def to_latents(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        rows = filled(len(pixels))
        noise = None if noise is None else take(noise, rows)
        return super().to_latents(take(pixels, rows), noise)[: len(pixels)]

    def to_image(self, latents: Tensor) -> Tensor:
        return super().to_image(take(latents, filled(len(latents))))[: len(latents)]

    def to_pixels(self, latents: Tensor) -> Tensor:
        return super().to_pixels(take(latents, filled(len(latents))))[: len(latents)]

    def encode(
        self, latents: Tensor, prompts: Prompts, hops: Sequence[Hop], callback: StepCallback | None
    ) -> list[Tensor]:
        count = len(latents)
        rows = filled(count)
        shown = of_rows(callback, range(count))
        own = super().encode(take(latents, rows), take_prompts(prompts, rows), hops, shown)
        return [passed[:count] for passed in own]

    def decode(
        self, inputs: DecodeInputs, hops: Sequence[Hop], callback: StepCallback | None
    ) -> Decoded:
        padded = Padded(inputs)
        shown = of_rows(callback, padded.rows)
        return padded.result(super().decode(padded.inputs, hops, shown), inputs)


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile finds what it needs for the device: a C++ compiler, or Triton on
    CUDA."""
    if device.type == "cuda":
        return find_spec("triton") is not None
    return any(
        shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++", "cl")
    )
