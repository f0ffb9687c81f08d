"""What every operation refuses about the tensors it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

# What networks compute in, and what pictures and predictions may come in.
NETWORK_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FLOATING = (*NETWORK_DTYPES, torch.float64)

Expected = Mapping[str, tuple[Tensor | None, Sequence[int], Sequence[torch.dtype]]]


def check_tensors(expected: Expected) -> None:
    """Refuses the first tensor that is not as expected: by name, its shape and its dtypes.

    All are on the device of the first. None stands for one that was not given. Raises ValueError or
    TypeError, naming the argument.
    """
    first, (leader, *_) = next(iter(expected.items()))
    assert leader is not None
    for name, (tensor, shape, dtypes) in expected.items():
        if tensor is None:
            continue
        if tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"{name} must be {list(shape)}, got {list(tensor.shape)}")
        if tensor.device != leader.device:
            raise ValueError(f"{name} is on {tensor.device}, {first} on {leader.device}")
        if tensor.dtype not in dtypes:
            raise TypeError(f"{name} must be {listed(dtypes)}, got {tensor.dtype}")


def listed(dtypes: Sequence[torch.dtype]) -> str:
    return " or ".join(dict.fromkeys(map(str, dtypes)))
