"""`python -m tests.cuda_programs.launches unet_encode`: the launches of one pass of SD1.5 at 512 in
bfloat16, by kind, as JSON. Stages: text (both prompts; not compiled), unet_encode (1 row), unet_decode (2
rows of a first edit), vae_encode, vae_decode.

Counted are inductor's kernels, calls of libraries, and operations of ours by what they launch. Needs a
CUDA build of torch and no GPU.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._inductor.graph import GraphLowering
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.architectures import ARCHITECTURES
from csrc_triton.group_norm_silu.plan import plan
from icd_engine.editing.plan import EditStep
from icd_engine.networks.resizing import keep_filters
from icd_engine.networks.text_encoder import TextEncoder
from icd_engine.networks.unet import UNet
from icd_engine.networks.vae import VAE
from icd_engine.runners.stages import PictureStages
from tests.cuda_programs.pretended import pretend

DTYPE = torch.bfloat16
TOKENS = 77
VIEWS = {
    *("view", "_unsafe_view", "as_strided", "alias", "expand", "permute", "slice", "split", "t"),
    *("transpose", "unsqueeze", "detach"),
}
CALLS = re.compile(r"(triton_\w+\.run|extern_kernels\.\w+|torch\.ops\.[\w.]+|\.copy_)\(")


class Written(Exception):
    """A program is there, and cannot be run."""


def program(function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    """What inductor writes for function(*arguments)."""
    found = []

    def stop(lowering: GraphLowering) -> None:
        code = lowering.codegen()[0]
        found.append(getattr(code, "value", code))
        raise Written

    GraphLowering.compile_to_module = stop
    options = {"conv_1x1_as_mm": True, "shape_padding": False, "fx_graph_cache": False}
    try:
        torch.compile(function, fullgraph=True, dynamic=False, options=options)(*arguments)
    except Exception:
        if not found:
            raise
    return found[0]


class Operation(NamedTuple):
    """A call that reached the dispatcher."""

    namespace: str
    name: str
    arguments: tuple[Any, ...]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of its tensors."""
        return [tuple(given.shape) for given in self.arguments if isinstance(given, Tensor)]

    @property
    def launches(self) -> int:
        if self.namespace == "icd":
            return launches(self.name, self.arguments)
        return 1 if self.namespace == "aten" and self.name not in VIEWS else 0


class Operations(TorchDispatchMode):
    """All calls, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Operation] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found.append(Operation(func.namespace, func.overloadpacket.__name__, args))
        return func(*args, **(kwargs or {}))


def launches(name: str, arguments: tuple[Any, ...]) -> int:
    """Of one call of an operation of ours: group norms of large maps take two, and word maps are
    averaged over heads in one more."""
    if name == "group_norm_silu":
        x, weight, _, groups, _, skip = arguments[:6]
        pixels = x.shape[2] * x.shape[3]
        planned = plan(len(x), len(weight), groups, pixels, x.element_size(), skip is not None)
        return 2 if planned.chunk else 1
    if name == "add_group_norm":
        x, residual, weight, _, groups = arguments[:5]
        pixels = x.shape[2] * x.shape[3]
        size = x.element_size() * (1 if residual is None else 2)
        planned = plan(len(x), len(weight), groups, pixels, size, True)
        return 2 if planned.chunk else 1
    if name == "edited_attention":
        return 2 if len(arguments) > 8 and arguments[8] is not None else 1
    return 1


def called(function: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Operation]:
    with Operations() as operations:
        function(*arguments)
    return operations.found


def counted(stage: str) -> dict[str, int]:
    """Launches by kind."""
    pretend()
    with FakeTensorMode(), torch.no_grad():
        function, arguments = STAGES[stage]()
        found = called(function, arguments)
        if stage == "text":
            return Counter(own.name for own in found if own.launches)
        text = program(function, arguments)
    kinds = Counter(
        "triton" if name.startswith("triton_") else name.removesuffix(".default").rpartition(".")[2]
        for name in CALLS.findall(text[text.rindex("def call(") :])
    )
    ours = Counter[str]()
    for own in found:
        if own.namespace == "icd":
            ours[own.name] += own.launches
    return {**kinds, **ours}  # which are calls there, too


def on_device(make: Callable[[], nn.Module]) -> Any:
    """A network as loading leaves it on CUDA."""
    torch.set_default_dtype(DTYPE)
    with torch.device("cuda"):
        network = make().eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    for module in network.modules():
        for name, weight in module.named_parameters(recurse=False):
            if weight.ndim == 4:
                last = weight.detach().contiguous(memory_format=torch.channels_last)
                setattr(module, name, nn.Parameter(last, requires_grad=False))
    if isinstance(network, UNet):
        network.join_weights()
    keep_filters(network)
    return network


def empty(*shape: int, dtype: torch.dtype = DTYPE) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda")


def unet_pass(rows: int, edit: EditStep | None) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    config = ARCHITECTURES["sd15"]["unet"]
    network = on_device(lambda: UNet(config, blend_downscale=4, share_downscale=2))
    shifts = network.time_shifts(empty(rows, dtype=torch.float32), empty(rows, 512))
    prompt = network.prompt_values(empty(rows, TOKENS, 768))
    latents = empty(rows, 4, 64, 64).contiguous(memory_format=torch.channels_last)
    return network.predict, (latents, shifts, prompt, edit, None, edit is not None)


def unet_decode() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    row = torch.zeros(1, dtype=torch.int64, device="cuda")
    mix, *columns = (
        empty(1, *shape, dtype=torch.float32) for shape in ((TOKENS, TOKENS), *[(TOKENS,)] * 3)
    )
    return unet_pass(2, EditStep(row, mix, columns[0], row.bool(), *columns[1:]))


def vae_stage(name: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    stages = PictureStages(on_device(lambda: VAE(ARCHITECTURES["sd15"]["vae"])))
    if name == "to_moments":
        return stages.to_moments, (empty(1, 512, 512, 3, dtype=torch.uint8),)
    return stages.to_pixels, (empty(1, 4, 64, 64, dtype=torch.float32),)


def text_pass() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    encoder = on_device(lambda: TextEncoder(ARCHITECTURES["sd15"]["text_encoder"]))
    return encoder, (empty(2, TOKENS, dtype=torch.int64),)


STAGES = {
    "text": text_pass,
    "unet_encode": lambda: unet_pass(1, None),
    "unet_decode": unet_decode,
    "vae_encode": lambda: vae_stage("to_moments"),
    "vae_decode": lambda: vae_stage("to_pixels"),
}


if __name__ == "__main__":
    print(json.dumps(counted(sys.argv[1])))
