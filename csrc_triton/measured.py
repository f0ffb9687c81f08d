"""Which of our kernels a device has been shown to be faster by, shape by shape: measured.json, which
`benchmarks backends` fills. What has no entry there runs as PyTorch has it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

PATH = Path(__file__).with_name("measured.json")
TABLE: Mapping[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))


def shape_key(dtype: torch.dtype, *sizes: int) -> str:
    """The name of a shape in the table: "bfloat16 2 1280 16 16 1280"."""
    return " ".join([str(dtype).removeprefix("torch."), *map(str, sizes)])


def measured_tiling(op: str, device: int | None, key: str) -> tuple[int, ...] | None:
    """The tiling by which `op` is fastest at this shape on the CUDA device of that index; None where
    PyTorch is, or where nobody has measured.

    torch.compile reads through this and takes a device's properties for constants. To mark the whole
    as one (torch.compiler.assume_constant_result) would import its tracer here, for a second.
    """
    if not TABLE:
        return None
    return tiling_in(TABLE, torch.cuda.get_device_properties(device).name, op, key)


def tiling_in(
    kept: Mapping[str, Any], device_name: str, op: str, key: str
) -> tuple[int, ...] | None:
    """From {device name: {op: {shape: tiling}}}."""
    found: Sequence[int] | None = kept.get(device_name, {}).get(op, {}).get(key)
    return None if found is None else tuple(found)
