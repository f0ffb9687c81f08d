"""All that the engine uses of torch's private parts, torch.compile's mostly, and the releases it is
known to be right in.

Elsewhere compiled code is only slower: the shortcut that leans on how dynamo keeps programs is left
off (guards that are not asked), and settings that a release does not have are not made.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.compiler import skip_guard_on_all_nn_modules_unsafe, skip_guard_on_globals_unsafe

from icd_engine.runners import captures
from icd_engine.runners.nested import layout

TESTED = ("2.11", "2.13")  # the first and the last release of torch; pyproject.toml has them too
# Programs of one network: picture sizes x batch sizes x (first edit, re-edit, no edit). torch stops
# at 8.
MOST_PROGRAMS = 256
LIMITS = {"recompile_limit": MOST_PROGRAMS, "accumulated_recompile_limit": MOST_PROGRAMS}
# On the CPU kernels are called from C++: small networks are mostly calls, and from Python they take
# a fifth longer.
OPTIONS: dict[str, dict[str, Any]] = {"cpu": {"options": {"cpp_wrapper": True}}, "cuda": {}}
# And on CUDA, by level of `Placement.compile`. SD1.5 has about 2,600 kernels to choose among in
# full tuning, nearly all of them written by Triton. 1x1 convolutions are products at every level:
# their weights are often slices, which cuDNN copies at every call (full tuning sees that by
# itself). Capturing graphs is left to GraphRunner.
LEVELS: dict[str, dict[str, Any]] = {
    "cheap": {
        "max_autotune": False,
        "coordinate_descent_tuning": False,
        "conv_1x1_as_mm": True,
    },
    "aten": {
        "max_autotune": True,
        "coordinate_descent_tuning": False,
        "conv_1x1_as_mm": True,
        "max_autotune_gemm_backends": "ATEN",
        "max_autotune_conv_backends": "ATEN",
    },
    "full": {"max_autotune": True, "coordinate_descent_tuning": True},
}


def is_tested(version: str = torch.__version__) -> bool:
    """Whether the shortcut is known to be right in this release of torch; a warning where not."""
    first, last = (_release(known) for known in TESTED)
    if first <= _release(version) <= last:
        return True
    warnings.warn(
        f"torch {version} was not tested ({' to '.join(TESTED)} were): compiled code runs without "
        "a shortcut and may be slower",
        stacklevel=2,
    )
    return False


def _release(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def compile_stage(
    stage: Callable[..., Any], device: torch.device, level: str = "cheap", *, shortcut: bool
) -> Callable[..., Any]:
    """The stage as compiled code, a program for every layout of its arguments, compiled when first
    called.

    A method; the network behind it must not change once it has run. level: one of LEVELS, for CUDA.
    """
    # Here, because importing them takes a second, which eager edits do without
    from torch._dynamo import config as dynamo_config
    from torch._inductor import config as inductor_config

    chosen: dict[str, Any] = dict(OPTIONS[device.type])
    options = dict(chosen.get("options", {})) | (LEVELS[level] if device.type == "cuda" else {})
    if shortcut:
        options["guard_filter_fn"] = on_arguments
        stage = with_own_code(stage)
    else:
        options = {name: options[name] for name in options if hasattr(inductor_config, name)}
    chosen["options"] = options
    program = torch.compile(stage, fullgraph=True, dynamic=False, **chosen)
    # On the CPU weights become constants of the program, laid out for its convolutions. An option
    # of torch.compile would come too late: tracing already has to know.
    freezing = {"freezing": device.type == "cpu"}
    seen = set()

    def compiled(*arguments: Any) -> Any:
        # Settings are patched where something is compiled, not at every call: that takes .3 ms.
        wanted = layout(arguments)
        if wanted in seen:
            return program(*arguments)
        with (
            # Tuning waits for the device, which ends a capture by another thread
            captures.LOCK if device.type == "cuda" else nullcontext(),
            _patched(dynamo_config, LIMITS),
            _patched(inductor_config, freezing),
            cudnn_searches(device.type == "cuda" and level != "cheap"),
        ):
            result = program(*arguments)
        seen.add(wanted)
        return result

    return compiled


def _patched(config: ModuleType, settings: Mapping[str, Any]) -> Any:
    """The settings that this release has, inside."""
    known = {name: value for name, value in settings.items() if hasattr(config, name)}
    return config.patch(known) if known else nullcontext()


@contextmanager
def cudnn_searches(wanted: bool) -> Iterator[None]:
    """cuDNN times its kernels for every convolution that is new to it, inside; what it found it
    keeps afterwards, for calls of the same thread."""
    before = torch.backends.cudnn.benchmark
    try:
        torch.backends.cudnn.benchmark = before or wanted
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def with_own_code(method: Callable[..., Any]) -> MethodType:
    """The method on a copy of its code.

    Dynamo keeps programs by code object, so a network never gets another's.
    """
    assert isinstance(method, MethodType)
    function: Any = method.__func__
    code = function.__code__.replace()
    own = function.__globals__
    copied = FunctionType(code, own, function.__name__, function.__defaults__, function.__closure__)
    copied.__kwdefaults__ = function.__kwdefaults__
    return MethodType(copied, method.__self__)


def on_arguments(guards: Sequence[Any]) -> list[bool]:
    """Which of dynamo's guards are asked at every call: not those on a network, thousands, and on
    functions it calls.

    Networks are not changed once they are loaded, and `with_own_code` keeps them apart.
    """
    filters = (skip_guard_on_all_nn_modules_unsafe, skip_guard_on_globals_unsafe)
    return [all(kept) for kept in zip(*(asked(guards) for asked in filters), strict=True)]


def copy_each(into: list[Tensor], tensors: list[Tensor]) -> None:
    """Each tensor into the one at its place; on CUDA in a launch or a few where all have one dtype and
    each pair has one memory order. Optimizers do so; it has no public name."""
    torch._foreach_copy_(into, tensors)
