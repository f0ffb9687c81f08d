"""The operations of csrc_triton at the shapes an SD1.5 edit of 512x512 pictures gives them: rows
[source, target]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 2
HEADS = 8
TOKENS = 77


@dataclass(frozen=True)
class Shapes:
    """Sides of latents and pictures, the device and the dtype of activations; quick is an eighth of
    each side."""

    device: torch.device
    dtype: torch.dtype
    quick: bool = False
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def side(self, full: int) -> int:
        return max(2, full // 8) if self.quick else full

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(self.device, dtype or self.dtype)

    def map(self, rows: int, channels: int, side: int) -> Tensor:
        """A feature map in the layout the device's networks use."""
        layout = torch.channels_last if self.device.type == "cuda" else torch.contiguous_format
        side = self.side(side)
        return self.normal(rows, channels, side, side).contiguous(memory_format=layout)

    def heads(self, rows: int, length: int, size: int) -> Tensor:
        """[rows, heads, length, size] as a projection leaves it: heads are the innermost but one in
        memory."""
        return self.normal(rows, length, HEADS * size).unflatten(-1, (HEADS, size)).transpose(1, 2)


@dataclass(frozen=True)
class Call:
    """The public call and its definition over the same positional arguments, and the FLOPs of its
    products.

    eager: what one writes in PyTorch without the operation, in the working dtype; None where that
    is the definition.
    """

    op: Callable[..., Any]
    reference: Callable[..., Any]
    arguments: list[Any]
    flops: int = 0
    eager: Callable[..., Any] | None = None


@dataclass(frozen=True)
class OpCase:
    op: str  # its folder below csrc_triton
    shape: str
    make: Callable[[Shapes], Call]

    def __str__(self) -> str:
        return f"{self.op} {self.shape}"


def parts(op: str, *names: str) -> list[Callable[..., Any]]:
    """Functions of csrc_triton/<op>, and of its reference where the name says so.

    ImportError if it is not there.
    """
    modules = [
        f"csrc_triton.{op}.reference" if name.endswith("_reference") else f"csrc_triton.{op}"
        for name in names
    ]
    return [
        getattr(import_module(module), name) for module, name in zip(modules, names, strict=True)
    ]


def boundary_step(shapes: Shapes, guided: bool) -> Call:
    op, reference = parts("boundary_step", "boundary_step", "boundary_step_reference")
    latents = shapes.map(ROWS, 4, 64).float().contiguous()
    A, B, w = (
        torch.tensor(pair, device=shapes.device) for pair in ([3.1, 3.1], [-2.1, -2.1], [0.0, 7.0])
    )
    second = [shapes.map(ROWS, 4, 64), w] if guided else []
    return Call(op, reference, [latents, shapes.map(ROWS, 4, 64), A, B, *second])


def local_blend(shapes: Shapes) -> Call:
    op, reference = parts("local_blend", "local_blend", "local_blend_reference")
    latents = shapes.map(ROWS, 4, 64).float().contiguous()
    maps = [torch.rand(1, shapes.side(16), shapes.side(16), device=shapes.device) for _ in range(2)]
    rows = torch.zeros(1, dtype=torch.int64, device=shapes.device)
    active = torch.ones(1, dtype=torch.bool, device=shapes.device)
    return Call(
        lambda x, s, t, row, on: op(x, s, t, row, use_blend=on),
        reference,
        [latents, *maps, rows, active],
    )


def group_norm_silu(shapes: Shapes, rows: int, channels: int, side: int, skip: int = 0) -> Call:
    op, reference = parts("group_norm_silu", "group_norm_silu", "group_norm_silu_reference")
    x = shapes.map(rows, channels, side)
    kept = shapes.map(rows, skip, side) if skip else None
    weight, bias = (shapes.normal(channels + skip) for _ in range(2))
    arguments = [x, weight, bias] if kept is None else [x, weight, bias, kept]

    def given(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Tensor, weight: Tensor, bias: Tensor, kept: Tensor | None = None) -> Any:
            return function(x, weight, bias, 32, 1e-5, silu=True, skip=kept)

        return call

    def eager(x: Tensor, weight: Tensor, bias: Tensor, kept: Tensor | None = None) -> Tensor:
        joined = x if kept is None else torch.cat([x, kept], dim=1)
        return F.silu(F.group_norm(joined, 32, weight, bias, 1e-5))

    return Call(given(op), given(reference), arguments, eager=eager)


def layer_norm(shapes: Shapes, side: int, channels: int) -> Call:
    op, reference = parts("layer_norm", "layer_norm", "layer_norm_reference")
    x, residual = (shapes.normal(ROWS, shapes.side(side) ** 2, channels) for _ in range(2))
    weight, bias = (shapes.normal(channels) for _ in range(2))

    def given(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x, weight, bias, residual: function(x, weight, bias, residual=residual)

    def eager(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        total = x + residual
        return total, F.layer_norm(total, total.shape[-1:], weight, bias)

    return Call(given(op), given(reference), [x, weight, bias, residual], eager=eager)


def geglu(shapes: Shapes, side: int, channels: int) -> Call:
    op, reference = parts("geglu", "geglu", "geglu_reference")

    def eager(hidden: Tensor) -> Tensor:
        value, gate = hidden.chunk(2, dim=-1)
        return value * F.gelu(gate)

    return Call(
        op, reference, [shapes.normal(ROWS, shapes.side(side) ** 2, 8 * channels)], eager=eager
    )


def add_product(shapes: Shapes, side: int, channels: int, inner: int) -> Call:
    """With a copy of what is added to, so that repeats add to the same, as `addmm` has."""
    op, reference = parts("add_product", "add_product", "add_product_reference")
    n = shapes.side(side) ** 2
    total, x = (shapes.normal(ROWS, n, width) for width in (channels, inner))
    weight = shapes.normal(channels, inner) * inner**-0.5

    def copied(total: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return op(total.clone(), x, weight)

    def eager(total: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return torch.addmm(total.flatten(0, 1), x.flatten(0, 1), weight.T).view_as(total)

    flops = 2 * ROWS * n * channels * inner
    return Call(copied, reference, [total, x, weight], flops, eager)


def edited_attention(shapes: Shapes, side: int, size: int, words: bool = False) -> Call:
    op, reference = parts("edited_attention", "edited_attention", "edited_attention_reference")
    n = shapes.side(side) ** 2
    q = shapes.heads(1, n, size)
    source_q = shapes.heads(1, n, size)
    k, gained, source_k, mixed, source_v = (shapes.heads(1, TOKENS, size) for _ in range(5))
    rows = torch.zeros(1, dtype=torch.int64, device=shapes.device)
    columns = [shapes.normal(3, 1, TOKENS, dtype=torch.float32).abs()] if words else []
    arguments = [q, k, gained, source_q, source_k, mixed, rows, source_v, *columns]

    def call(*given: Tensor) -> tuple[Tensor, Tensor | None]:
        return op(*given[:7], source_v=given[7], columns=given[8] if words else None)

    def eager(
        q, k, gained, source_q, source_k, mixed, rows, source_v, columns=None
    ) -> list[Tensor]:
        """PyTorch's fused attention once for every set of values; a map is a column more of
        them."""
        if columns is not None:
            shared = columns[:2].permute(1, 2, 0)[:, None].to(q.dtype)
            own = columns[2][:, None, :, None].to(q.dtype)
            mixed = torch.cat([mixed, shared.expand(-1, HEADS, -1, -1)], dim=-1)
            gained = torch.cat([gained, own.expand(-1, HEADS, -1, -1)], dim=-1)
        shared = F.scaled_dot_product_attention(source_q[rows], source_k[rows], mixed)
        own = F.scaled_dot_product_attention(q, k, gained)
        source = F.scaled_dot_product_attention(source_q, source_k, source_v)
        maps = [] if columns is None else [shared[..., size:].mean(1), own[..., size:].mean(1)]
        return [torch.cat([source, shared[..., :size] + own[..., :size]]), *maps]

    flops = 2 * HEADS * n * TOKENS * size * 5  # two maps, three products with values
    return Call(call, reference, arguments, flops, eager)


def conv3x3(
    shapes: Shapes, channels: int, side: int, outer: int, tiling: int, stride: int = 1
) -> Call:
    """What of a residual block is around its second convolution: by the kernel, whether or not a
    device has been shown to be faster by it."""
    (reference,) = parts("conv3x3", "conv3x3_reference")
    channels, outer = (count // 8 if shapes.quick else count for count in (channels, outer))
    x, residual = shapes.map(ROWS, channels, side), shapes.map(ROWS, outer, side // stride)
    weight = shapes.normal(outer, channels, 3, 3) * (9 * channels) ** -0.5
    weight = weight.contiguous(memory_format=torch.channels_last)
    norm = [shapes.normal(ROWS, channels, dtype=torch.float32) for _ in range(2)]
    added = [shapes.normal(outer), *norm, shapes.normal(ROWS, outer), residual]
    flops = 2 * 9 * channels * residual.numel()
    return Call(_tiled("conv3x3", tiling), reference, [x, weight, *added, stride], flops)


def self_attention(shapes: Shapes, side: int, size: int, tiling: int) -> Call:
    (reference,) = parts("self_attention", "self_attention_reference")
    n = shapes.side(side) ** 2
    arguments = [shapes.heads(ROWS, n, size) for _ in range(3)]
    flops = 4 * ROWS * HEADS * n * n * size
    return Call(_tiled("self_attention", tiling), reference, arguments, flops)


def _tiled(op: str, number: int) -> Callable[..., Tensor]:
    """The registered operator by one of its TILINGS."""
    tiling = list(import_module(f"csrc_triton.{op}").TILINGS[number])
    return lambda *given: getattr(torch.ops.icd, op)(*given, tiling)


def from_pixels(shapes: Shapes) -> Call:
    op, reference = parts("pixels", "from_pixels", "from_pixels_reference")
    side = shapes.side(512)
    dtype = shapes.dtype
    pixels = torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8, device=shapes.device)
    return Call(lambda x: op(x, dtype), lambda x: reference(x, dtype), [pixels])


def to_pixels(shapes: Shapes) -> Call:
    op, reference = parts("pixels", "to_pixels", "to_pixels_reference")
    return Call(op, reference, [shapes.map(1, 3, 512)])


CASES = [
    OpCase("boundary_step", "2x4x64x64", lambda s: boundary_step(s, guided=False)),
    OpCase("boundary_step", "2x4x64x64 guided", lambda s: boundary_step(s, guided=True)),
    OpCase("local_blend", "2x4x64x64", local_blend),
    OpCase("group_norm_silu", "2x320x64x64", lambda s: group_norm_silu(s, 2, 320, 64)),
    OpCase("group_norm_silu", "2x1280x16x16", lambda s: group_norm_silu(s, 2, 1280, 16)),
    OpCase(
        "group_norm_silu", "2x(640+320)x64x64", lambda s: group_norm_silu(s, 2, 640, 64, skip=320)
    ),
    OpCase("group_norm_silu", "1x128x512x512", lambda s: group_norm_silu(s, 1, 128, 512)),
    OpCase("group_norm_silu", "1x512x64x64", lambda s: group_norm_silu(s, 1, 512, 64)),
    OpCase("layer_norm", "2x4096x320 + residual", lambda s: layer_norm(s, 64, 320)),
    OpCase("layer_norm", "2x256x1280 + residual", lambda s: layer_norm(s, 16, 1280)),
    OpCase("geglu", "2x4096x2560", lambda s: geglu(s, 64, 320)),
    OpCase("geglu", "2x256x10240", lambda s: geglu(s, 16, 1280)),
    OpCase("add_product", "2x4096x1280 to 320", lambda s: add_product(s, 64, 320, 1280)),
    OpCase("add_product", "2x256x5120 to 1280", lambda s: add_product(s, 16, 1280, 5120)),
    OpCase("edited_attention", "4096x77, 8 heads of 40", lambda s: edited_attention(s, 64, 40)),
    OpCase("edited_attention", "1024x77, 8 heads of 80", lambda s: edited_attention(s, 32, 80)),
    OpCase(
        "edited_attention",
        "256x77, 8 heads of 160, words",
        lambda s: edited_attention(s, 16, 160, words=True),
    ),
    OpCase("conv3x3", "2x1280x8x8 to 1280", lambda s: conv3x3(s, 1280, 8, 1280, 2)),
    OpCase("conv3x3", "2x1280x16x16 to 1280", lambda s: conv3x3(s, 1280, 16, 1280, 6)),
    OpCase("conv3x3", "2x1920x32x32 to 640", lambda s: conv3x3(s, 1920, 32, 640, -1)),
    OpCase("conv3x3", "2x1280x16x16 halved", lambda s: conv3x3(s, 1280, 16, 1280, 3, stride=2)),
    OpCase("self_attention", "2x8x4096x40", lambda s: self_attention(s, 64, 40, 4)),
    OpCase("self_attention", "2x8x1024x80", lambda s: self_attention(s, 32, 80, 1)),
    OpCase("pixels", "from 1x512x512x3", from_pixels),
    OpCase("pixels", "to 1x512x512x3", to_pixels),
]
