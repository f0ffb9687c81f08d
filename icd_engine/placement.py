"""Where a model runs, how its network calls are executed, and what it does to need less memory."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from icd_engine.errors import RunnerError, shown

DTYPES = ("float32", "float16", "bfloat16")
RUNNERS = ("eager", "compiled", "graph", "onnx", "onnx-graph", "openvino")
WEIGHTS = ("fused", "switch")
COMPILE = ("cheap", "aten", "full")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The options of `Engine.from_pretrained`, in one piece.

    device: "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1". dtype: precision of the
    networks, "auto" (bfloat16 on CUDA and where OpenVINO can, else float32), "float32", "float16" or "bfloat16".
    runner: how network calls are executed, "auto" or one of RUNNERS. weights: "fused" (two whole
    networks) or "switch" (one, and the other as low-rank updates of it). compile: what compiled code
    for CUDA is tuned by, so how long the first edit takes: "cheap" (nothing), "aten" (PyTorch's own
    kernels against each other), "full" (those that Triton writes, too). offload: text encoders
    and VAE wait in host memory between uses. vae_tiling: pictures pass the VAE in overlapping tiles
    of the size it was trained at, always, never, or (None) where they have more than four times
    its pixels.

    Raises RunnerError for what no model knows. What one machine or model cannot do is found out
    when it is loaded.
    """

    device: str = "auto"
    dtype: str = "auto"
    runner: str = "auto"
    weights: str = "fused"
    compile: str = "cheap"
    offload: bool = False
    vae_tiling: bool | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            # A class, not its name: this module must not postpone annotations.
            kind, called = (str, "a name") if field.type is str else (bool, "True or False")
            if not isinstance(value, kind) and not (field.name == "vae_tiling" and value is None):
                raise RunnerError(f"{field.name} must be {called}, not {shown(value)}")
        check_name("dtype", self.dtype, ("auto", *DTYPES))
        check_name("runner", self.runner, ("auto", *RUNNERS))
        check_name("weights", self.weights, WEIGHTS)
        check_name("compile", self.compile, COMPILE)


def check_name(what: str, name: Any, known: Sequence[str]) -> None:
    """RunnerError unless `name` is one of those known."""
    if name not in known:
        raise RunnerError(f"{what} must be one of {', '.join(known)}, not {shown(name)}")


PLAIN = Placement()
