"""Tensors in nested tuples, lists and dictionaries, as stages take and give them. Other sequences than
text count as lists."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

from torch import Tensor


def leaves(value: Any) -> list[Any]:
    """What the nesting holds, in order: tensors, and everything that is no tuple, list or
    dictionary."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if not is_sequence(value):
        return [value]
    return [leaf for part in value for leaf in leaves(part)]


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """The same nesting with function(tensor) for every tensor."""
    if isinstance(value, Tensor):
        return function(value)
    return map_parts(partial(map_tensors, function), value)


def map_parts(function: Callable[[Any], Any], value: Any) -> Any:
    """The same tuple, list or dictionary with function(part) for every part; anything else as it is."""
    if isinstance(value, dict):
        return {key: function(part) for key, part in value.items()}
    if not is_sequence(value):
        return value
    parts = [function(part) for part in value]
    if not isinstance(value, tuple):
        return parts
    named = hasattr(value, "_fields")  # a NamedTuple, which takes its fields one by one
    return type(value)(*parts) if named else tuple(parts)


def layout(value: Any, strides: bool = True) -> Hashable:
    """Dtype, shape and strides of every tensor, everything else as it is: what a program or a graph
    is made for."""
    if isinstance(value, Tensor):
        return value.dtype, value.shape, value.stride() if strides else None
    if isinstance(value, dict):
        return tuple((key, layout(part, strides)) for key, part in value.items())
    if is_sequence(value):
        return tuple([layout(part, strides) for part in value])
    return value


def is_sequence(value: Any) -> bool:
    return isinstance(value, tuple | list | Sequence) and not isinstance(value, str)
