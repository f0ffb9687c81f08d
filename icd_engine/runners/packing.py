"""Many tensors in few: those of a dtype one after the other in one tensor, which one launch writes and
one more copies."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icd_engine.runners.nested import leaves, map_tensors

ALIGNED = 16  # bytes: where kernels read and write in their widest steps


class Place(NamedTuple):
    """Where a tensor lies in the one of its dtype, in elements."""

    size: torch.Size
    stride: tuple[int, ...]
    first: int


class Packing:
    """How the tensors of a nesting lie in one tensor for each dtype, in the memory order they have.

    What lies in memory with holes is packed as contiguous.
    """

    def __init__(self, value: Any):
        self._value = map_tensors(lambda tensor: tensor.new_empty(0), value)  # holds on to nothing
        tensors = [leaf for leaf in leaves(value) if isinstance(leaf, Tensor)]
        self._places: list[Place | None] = [None] * len(tensors)
        # By dtype: the numbers of its tensors, and zeros that fill up what each leaves open
        self._groups: list[tuple[list[int], Tensor, list[int]]] = []
        self.flats: list[Tensor] = []
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            own = [i for i, tensor in enumerate(tensors) if tensor.dtype == dtype]
            step = max(ALIGNED // dtype.itemsize, 1)
            fills = [-tensors[i].numel() % step for i in own]
            widths = [tensors[i].numel() + fill for i, fill in zip(own, fills, strict=True)]
            for i, end, width in zip(own, accumulate(widths), widths, strict=True):
                self._places[i] = Place(tensors[i].shape, _strides(tensors[i]), end - width)
            flat = torch.zeros(sum(widths), dtype=dtype, device=tensors[own[0]].device)
            self._groups.append((own, flat.new_zeros(step), fills))
            self.flats.append(flat)

    def write(self, value: Any) -> None:
        """The tensors of another value of this nesting into `flats`, a launch for each dtype."""
        tensors = [leaf for leaf in leaves(value) if isinstance(leaf, Tensor)]
        for flat, (own, zeros, fills) in zip(self.flats, self._groups, strict=True):
            lines = []
            for i, fill in zip(own, fills, strict=True):
                lines.append(_line(tensors[i], self._places[i]))
                if fill:
                    lines.append(zeros[:fill])
            torch.cat(lines, out=flat)

    def read(self, flats: Sequence[Tensor]) -> Any:
        """The nesting with its tensors where they lie in these."""
        views: list[Any] = [None] * len(self._places)
        for flat, (own, _, _) in zip(flats, self._groups, strict=True):
            for i in own:
                place = self._places[i]
                assert place is not None
                views[i] = flat.as_strided(*place)
        rest = iter(views)
        return map_tensors(lambda _: next(rest), self._value)


def _strides(tensor: Tensor) -> tuple[int, ...]:
    """Those of the tensor where it fills its memory, else of its contiguous copy."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return torch.empty(tensor.shape, device="meta").stride()
        expected *= size
    return tensor.stride()


def _line(tensor: Tensor, place: Place | None) -> Tensor:
    """Its elements [n] in the order of the place, where they lie if they lie so."""
    assert place is not None
    if tensor.stride() != place.stride:
        ordered = tensor.new_empty(0).new_empty_strided(place.size, place.stride)
        tensor = ordered.copy_(tensor)
    return tensor.as_strided((tensor.numel(),), (1,))
