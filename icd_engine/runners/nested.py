"""Tensors in nested tuples, lists and dictionaries, as stages take and give them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from torch import Tensor


def leaves(value: Any) -> list[Any]:
    """What the nesting holds, in order: tensors, and everything that is no tuple, list or
    dictionary."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, tuple | list):
        return [value]
    return [leaf for part in value for leaf in leaves(part)]


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same nesting with function(tensor) for every tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: map_tensors(function, part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        parts = [map_tensors(function, part) for part in value]
        named = hasattr(value, "_fields")  # a NamedTuple, which takes its fields one by one
        return type(value)(*parts) if named else type(value)(parts)
    return value


def layout(value: Any, strides: bool = True) -> Hashable:
    """Dtype, shape and strides of every tensor, everything else as it is: what a program or a graph
    is made for."""
    if isinstance(value, Tensor):
        return value.dtype, value.shape, value.stride() if strides else None
    if isinstance(value, dict):
        return tuple((key, layout(part, strides)) for key, part in value.items())
    if isinstance(value, tuple | list):
        return tuple(layout(part, strides) for part in value)
    return value
