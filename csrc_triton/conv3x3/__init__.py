"""3x3 convolution of small maps, with the norm before it and the additions after it."""

from __future__ import annotations

import torch
from torch import Tensor

from csrc_triton import fused
from csrc_triton.checks import NETWORK_DTYPES, check_tensors, listed
from csrc_triton.conv3x3.reference import conv3x3_reference
from csrc_triton.measured import measured_tiling, shape_key

__all__ = ["conv3x3"]

# (pixels, channels out and channels in of a tile, parts that K is split into, warps, stages): what
# is measured first, and what tests run. None spills on sm_80, sm_90 and sm_100; no device has been
# shown to be faster by any of them.
TILINGS = [
    (64, 64, 32, 12, 8, 5),
    (64, 64, 32, 4, 8, 5),
    (64, 128, 64, 12, 8, 4),
    (64, 128, 64, 8, 8, 4),
    (64, 128, 64, 4, 8, 4),
    (128, 128, 64, 8, 8, 3),
    (128, 128, 64, 4, 8, 3),
    (128, 128, 64, 2, 8, 3),
    (128, 128, 64, 1, 8, 3),
]


def conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    gain: Tensor | None = None,
    offset: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    stride: int = 1,
) -> Tensor:
    """The convolution of SiLU(x gain + offset), or of x, with its padding of one zero: [B, O, h, w].

    y = weight * a + bias + shift + residual, where a is what of x the norm has made. A library's
    kernel leaves most of a large device idle at 8x8 to 32x32 pixels, where K = 9 C is long and
    tiles are few; here K is split, and its parts are added up in one order.

    x: [B, C, H, W]. weight: [O, C, 3, 3]. bias: [O] or None. gain, offset: [B, C] float32, both or
    neither: GroupNorm with its statistics known is gain = weight rsqrt(var + eps), offset = bias -
    mean gain. shift: [B, O], that of a time step, or None. residual: [B, O, h, w] or None. All but
    gain and offset have one dtype of float32, float16 and bfloat16. stride: 1 or 2, of both axes; h, w
    are H, W over it, rounded up. The result is channels-last where the kernel runs, else as F.conv2d
    has it.

    The kernel runs on CUDA with gradients off, where `measured.json` has a tiling for the shape:
    elsewhere this is plain PyTorch. Raises ValueError or TypeError, naming the argument.
    """
    _check(x, weight, bias, gain, offset, shift, residual, stride)
    given = (x, weight, bias, gain, offset, shift, residual, stride)
    if fused(x):
        key = shape_key(x.dtype, *x.shape, weight.shape[0], stride)
        tiling = measured_tiling("conv3x3", x.device.index, key)
        if tiling is not None:
            return torch.ops.icd.conv3x3(*given, list(tiling))
    return conv3x3_reference(*given)


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gain: Tensor | None,
    offset: Tensor | None,
    shift: Tensor | None,
    residual: Tensor | None,
    stride: int,
) -> None:
    if x.ndim != 4:
        raise ValueError(f"x must be [B, C, H, W], got {list(x.shape)}")
    if x.dtype not in NETWORK_DTYPES:
        raise TypeError(f"x must be {listed(NETWORK_DTYPES)}, got {x.dtype}")
    if weight.ndim != 4:
        raise ValueError(f"weight must be [O, C, 3, 3], got {list(weight.shape)}")
    if (gain is None) != (offset is None):
        raise ValueError("gain and offset must both be given, or neither")
    if stride not in (1, 2):
        raise ValueError(f"stride must be 1 or 2, got {stride}")
    rows, channels, *size = x.shape
    pixels = [-(-own // stride) for own in size]
    outer = weight.shape[0]
    own = (x.dtype,)
    expected = {
        "x": (x, x.shape, own),
        "weight": (weight, (outer, channels, 3, 3), own),
        "bias": (bias, (outer,), own),
        "gain": (gain, (rows, channels), (torch.float32,)),
        "offset": (offset, (rows, channels), (torch.float32,)),
        "shift": (shift, (rows, outer), own),
        "residual": (residual, (rows, outer, *pixels), own),
    }
    check_tensors(expected)


@torch.library.custom_op("icd::conv3x3", mutates_args=(), device_types="cpu")
def _op(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gain: Tensor | None,
    offset: Tensor | None,
    shift: Tensor | None,
    residual: Tensor | None,
    stride: int,
    tiling: list[int],
) -> Tensor:
    y = conv3x3_reference(x, weight, bias, gain, offset, shift, residual, stride)
    # The operator has one memory format on every device
    return y.contiguous(memory_format=torch.channels_last)


@_op.register_kernel("cuda")
def _cuda(x, weight, bias, gain, offset, shift, residual, stride, tiling) -> Tensor:
    from csrc_triton.conv3x3.kernel import launch  # Triton exists on GPU builds only

    return launch(x, weight, bias, gain, offset, shift, residual, stride, tiling)


@_op.register_fake
def _fake(x, weight, bias, gain, offset, shift, residual, stride, tiling) -> Tensor:
    shape = (x.shape[0], weight.shape[0], *(-(-size // stride) for size in x.shape[2:]))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
