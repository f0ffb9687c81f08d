"""Operations that become other nodes than torch's exporter makes of them."""

from __future__ import annotations

from typing import Any

import torch
from onnxscript import FLOAT, opset20

# Its methods are typed for the types of each tensor, which only the traced graph has
op: Any = opset20


def group_norm(
    x: FLOAT, groups: int, weight: FLOAT, bias: FLOAT, eps: float = 1e-5, cudnn_enabled: bool = True
) -> FLOAT:
    """GroupNorm of [B, C, H, W], adding up one axis after the other.

    The exporter has InstanceNormalization add up a whole group, in a VAE a million numbers, in one
    float32. So the latents of a 512x512 picture are off by 1e-6 where they were off by 4e-6, and
    the networks behind magnify that.
    """

    def mean(values: FLOAT) -> FLOAT:
        for axis in (4, 3, 2):
            values = op.ReduceMean(values, op.Constant(value_ints=[axis]))
        return values

    grouped = op.Reshape(
        x, op.Concat(op.Constant(value_ints=[0, groups, -1]), op.Shape(x, start=2), axis=0)
    )
    centred = op.Sub(grouped, mean(grouped))
    deviation = op.Sqrt(op.Add(mean(op.Mul(centred, centred)), op.Constant(value_float=eps)))
    normalised = op.Reshape(op.Div(centred, deviation), op.Shape(x))
    after = op.Constant(value_ints=[1, 2])
    return op.Add(op.Mul(normalised, op.Unsqueeze(weight, after)), op.Unsqueeze(bias, after))


# By opset. 23 has GroupNormalization, whose sums are the runtime's: onnxruntime 1.32 is 1e-5 of the
# largest value off.
TRANSLATIONS: dict[int, dict[Any, Any]] = {
    20: {torch.ops.aten.group_norm.default: group_norm},
    23: {},
}
