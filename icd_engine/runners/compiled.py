"""The compiled runner: the same path through code that torch.compile makes of the networks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from types import FunctionType, MethodType
from typing import Any

import torch
import torch._inductor.config
from torch import Tensor

from icd_engine.errors import RunnerError
from icd_engine.networks.unet import UNet, UNetOutput
from icd_engine.placement import PLAIN, Placement
from icd_engine.runners.buckets import Padded, filled, of_rows, take, take_prompts
from icd_engine.runners.contract import Decoded, DecodeInputs, Prompts, StepCallback
from icd_engine.runners.eager import EagerRunner, Networks
from icd_engine.sampling.schedule import Hop

# Programs of one network: picture sizes x batch sizes x (first edit, further edit, no edit). torch
# stops at 8.
MOST_PROGRAMS = 256
# On the CPU kernels are called from C++: small networks are mostly calls, and from Python they take
# a fifth longer. On CUDA kernels are tuned, as by mode "max-autotune-no-cudagraphs"; capturing
# graphs is left to GraphRunner.
OPTIONS: dict[str, dict[str, Any]] = {
    "cpu": {"options": {"cpp_wrapper": True}},
    "cuda": {"options": {"max_autotune": True, "coordinate_descent_tuning": True}},
}
# Of UNets whose matrix products inductor writes itself on the CPU: oneDNN takes some 30 us to begin
# one.
SMALL = 30_000_000  # parameters


class CompiledRunner(EagerRunner):
    """Rows are filled up to fixed batch sizes; the program of each is compiled when it first runs,
    which takes minutes.

    Raises RunnerError where there is no compiler.
    """

    name = "compiled"
    warms_up = True
    reference = False

    def __init__(self, networks: Networks, placement: Placement = PLAIN):
        super().__init__(networks, placement)
        if not can_compile(self.device):
            needed = (
                "triton" if self.device.type == "cuda" else "a C++ compiler (g++, clang++ or $CXX)"
            )
            raise RunnerError(f"runner {self.name!r} needs {needed}: none was found")
        self._small = sum(weights.numel() for weights in self.reverse.parameters()) <= SMALL
        self._programs: dict[int, Callable[..., UNetOutput]] = {
            id(unet): self._compile(unet.predict) for unet in (self.forward, self.reverse)
        }
        self._to_moments = self._compile(self._to_moments)
        self._to_image = self._compile(self._to_image)
        self._to_pixels = self._compile(self._to_pixels)

    def _compile(self, function: Any) -> Callable:
        chosen: dict[str, Any] = dict(OPTIONS[self.device.type])
        chosen["options"] = {**chosen.get("options", {}), "guard_filter_fn": _on_arguments}
        program = torch.compile(with_own_code(function), fullgraph=True, dynamic=False, **chosen)
        limits = {"recompile_limit": MOST_PROGRAMS, "accumulated_recompile_limit": MOST_PROGRAMS}
        # On the CPU weights become constants of the program, laid out for its convolutions. An
        # option of torch.compile would come too late: tracing already has to know.
        freezing = self.device.type == "cpu"
        products = own_products if self.device.type == "cpu" and self._small else nullcontext
        seen = set()

        def run(*arguments: Any) -> Any:
            # Settings are patched where something is compiled, not at every call: that takes .3 ms.
            layout = _layout(arguments)
            if layout in seen:
                return program(*arguments)
            with (
                torch._dynamo.config.patch(limits),
                torch._inductor.config.patch(freezing=freezing),
                products(),
            ):
                result = program(*arguments)
            seen.add(layout)
            return result

        return run

    def _predict(self, unet: UNet, latents: Tensor, *tables: Any) -> UNetOutput:
        return self._programs[id(unet)](latents.to(self.dtype), *tables)

    @torch.no_grad()
    def to_latents(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        rows = filled(len(pixels))
        return super().to_latents(take(pixels, rows), None if noise is None else take(noise, rows))[
            : len(pixels)
        ]

    @torch.no_grad()
    def to_image(self, latents: Tensor) -> Tensor:
        return super().to_image(take(latents, filled(len(latents))))[: len(latents)]

    @torch.no_grad()
    def to_pixels(self, latents: Tensor) -> Tensor:
        return super().to_pixels(take(latents, filled(len(latents))))[: len(latents)]

    @torch.no_grad()
    def encode(
        self, latents: Tensor, prompts: Prompts, hops: Sequence[Hop], callback: StepCallback | None
    ) -> Tensor:
        count = len(latents)
        rows = filled(len(latents))
        shown = of_rows(callback, range(count))
        return super().encode(take(latents, rows), take_prompts(prompts, rows), hops, shown)[:count]

    @torch.no_grad()
    def decode(
        self, inputs: DecodeInputs, hops: Sequence[Hop], callback: StepCallback | None
    ) -> Decoded:
        padded = Padded(inputs)
        return padded.result(
            super().decode(padded.inputs, hops, of_rows(callback, padded.rows)), inputs
        )


def with_own_code(method: MethodType) -> MethodType:
    """The method on a copy of its code.

    Dynamo keeps programs by code object, so a network never gets another's.
    """
    function: Any = method.__func__
    code = function.__code__.replace()
    own = function.__globals__
    copied = FunctionType(code, own, function.__name__, function.__defaults__, function.__closure__)
    copied.__kwdefaults__ = function.__kwdefaults__
    return MethodType(copied, method.__self__)


def _on_arguments(guards: Sequence[Any]) -> list[bool]:
    """Which of dynamo's guards are asked at every call: not those on a network, thousands, and on
    functions it calls.

    Networks are not changed once they are loaded, and `with_own_code` keeps them apart.
    """
    return ["._modules[" not in guard.name and "G[" not in guard.name for guard in guards]


def _layout(value: Any) -> Any:
    """Shapes and strides of tensors, everything else as it is: what a program is compiled for."""
    if isinstance(value, Tensor):
        return value.dtype, value.shape, value.stride()
    return tuple(map(_layout, value)) if isinstance(value, (tuple, list)) else value


@contextmanager
def own_products() -> Iterator[None]:
    """Inside, inductor writes a matrix product itself wherever it can, untimed: timing the ways
    takes minutes."""
    # Takes a second to import
    from torch._inductor.select_algorithm import get_algorithm_selector_cache

    with torch._inductor.config.patch(
        max_autotune_gemm=True, max_autotune_gemm_backends="ATEN,CPP"
    ):
        cache = get_algorithm_selector_cache()
        cache.add_preprocessing_fn(_own_product)
        try:
            yield
        finally:
            cache.preprocessing_fns.remove(_own_product)


def _own_product(choices: list[Any]) -> list[Any]:
    if any(choice.name == "bmm" for choice in choices):
        return [choice for choice in choices if choice.name == "bmm"]
    return [choice for choice in choices if choice.name.startswith("cpp_")][:1] or choices


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile finds what it needs for the device: a C++ compiler, or Triton on
    CUDA."""
    if device.type == "cuda":
        return find_spec("triton") is not None
    return any(
        shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++", "cl")
    )
