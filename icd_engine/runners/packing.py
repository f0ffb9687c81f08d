"""Many tensors in few: those of a dtype one after the other in one tensor, which one launch writes and
one more copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from icd_engine.runners.inductor import copy_each
from icd_engine.runners.nested import leaves, map_parts, map_tensors

ALIGNED = 16  # bytes: where kernels read and write in their widest steps


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in the one of its dtype, in elements."""

    flat: int  # the number of that one
    size: torch.Size
    stride: tuple[int, ...]
    first: int


# Registered: of a subclass, Sequence would ask about every other type
@Sequence.register  # pyright: ignore[reportAttributeAccessIssue]
class Later:
    """A list that is made when it is first looked at: results are often many tensors that are handed on
    and never seen."""

    def __init__(self, make: Callable[[], list[Any]]):
        self._make = make

    @cached_property
    def _made(self) -> list[Any]:
        return self._make()

    def __len__(self) -> int:
        return len(self._made)

    def __getitem__(self, index: Any) -> Any:
        return self._made[index]


class Packing:
    """How the tensors of a nesting lie in one tensor for each dtype, in the memory order they have.

    What lies in memory with holes is packed as contiguous.
    """

    def __init__(self, value: Any):
        tensors = _tensors(value)
        dtypes = list(dict.fromkeys(tensor.dtype for tensor in tensors))
        self.flats: list[Tensor] = []
        places: dict[int, Place] = {}
        # By dtype: the numbers of its tensors, and where they lie
        self._groups: list[tuple[list[int], list[Tensor]]] = []
        for flat, dtype in enumerate(dtypes):
            own = [i for i, tensor in enumerate(tensors) if tensor.dtype == dtype]
            step = max(ALIGNED // dtype.itemsize, 1)
            ends = list(accumulate(-(-tensors[i].numel() // step) * step for i in own))
            for i, first in zip(own, [0, *ends], strict=False):
                places[i] = Place(flat, tensors[i].shape, _strides(tensors[i]), first)
            self.flats.append(torch.zeros(ends[-1], dtype=dtype, device=tensors[own[0]].device))
            self._groups.append((own, [_view(self.flats, places[i]) for i in own]))
        rest = iter(range(len(tensors)))
        self._value = map_tensors(lambda _: places[next(rest)], value)

    def write(self, value: Any) -> None:
        """The tensors of another value of this nesting into `flats`, a launch for each dtype."""
        tensors = _tensors(value)
        for own, views in self._groups:
            ordered = (_ordered(tensors[i], view) for i, view in zip(own, views, strict=True))
            copy_each(views, list(ordered))

    def read(self, flats: Sequence[Tensor], later: bool = False) -> Any:
        """The nesting with its tensors where they lie in these; later: its lists are made when they are
        first looked at."""

        def read(part: Any) -> Any:
            if isinstance(part, Place):
                return _view(flats, part)
            if later and isinstance(part, list):
                return Later(lambda: map_parts(read, part))
            return map_parts(read, part)

        return read(self._value)


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in leaves(value) if isinstance(leaf, Tensor)]


def _view(flats: Sequence[Tensor], place: Place) -> Tensor:
    return flats[place.flat].as_strided(place.size, place.stride, place.first)


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


def _ordered(tensor: Tensor, view: Tensor) -> Tensor:
    """The tensor in the memory order of the view: one of another order, and all would be copied one by
    one."""
    return tensor if tensor.stride() == view.stride() else torch.empty_like(view).copy_(tensor)
