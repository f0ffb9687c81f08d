"""Fused operations, one folder each: tensors in, tensors out; registered as `icd::<op>`."""

from __future__ import annotations

import torch
from torch import Tensor


def fused(x: Tensor) -> bool:
    """Whether an operation on `x` runs its Triton kernel: on CUDA, with gradients off.

    Elsewhere it is its reference, inline: the compiler fuses it, exporters and autograd see plain
    PyTorch.
    """
    return x.is_cuda and not torch.is_grad_enabled()
