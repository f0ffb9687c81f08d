"""What a runner does to need less memory: networks that wait on the host and pictures decoded tile by
tile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from threading import Lock

import torch
from torch import Tensor, nn

OVERLAP = 4  # tiles share this part of their side, 1 / OVERLAP


class Residence:
    """Keeps networks on the host while nobody uses them.

    Thread-safe; on the CPU there is nothing to move.
    """

    def __init__(self, device: torch.device, *networks: nn.Module):
        self._device = device
        self._lock = Lock()
        self._users = Counter[int]()
        for network in networks:
            network.to("cpu")

    @contextmanager
    def of(self, network: nn.Module) -> Iterator[None]:
        """The network is on the device inside; the last one out sends it back."""
        with self._lock:
            if not self._users[id(network)]:
                network.to(self._device)
            self._users[id(network)] += 1
        try:
            yield
        finally:
            with self._lock:
                self._users[id(network)] -= 1
                if not self._users[id(network)]:
                    network.to("cpu")


def in_tiles(
    function: Callable[[Tensor], Tensor], x: Tensor, tile: int, scale: tuple[int, int]
) -> Tensor:
    """function(x) of maps x [B, ..., H, W], computed in overlapping square tiles that fade into
    each other.

    All tiles have one shape, `tile` or the side of x where that is less, so one program serves.
    scale: (a, b), output pixels a for every b input pixels; tiles begin at multiples of b. Weights
    of a pixel's tiles sum to 1. What a network takes over the whole picture (norms, attention) it
    takes over a tile: results differ a little.
    """
    up, down = scale
    sides = [min(tile, side) for side in x.shape[-2:]]
    places = [
        tile_starts(side // down, own // down)
        for side, own in zip(x.shape[-2:], sides, strict=True)
    ]
    result = total = None
    weight = _fading(sides[0] * up // down, x.device)[:, None] * _fading(
        sides[1] * up // down, x.device
    )
    for top, left in product(*places):
        part = function(
            x[..., top * down : top * down + sides[0], left * down : left * down + sides[1]]
        )
        if result is None or total is None:
            whole = [side * up // down for side in x.shape[-2:]]
            result = part.new_zeros(*part.shape[:-2], *whole)
            total = part.new_zeros(whole)
        where = (
            ...,
            slice(top * up, top * up + part.shape[-2]),
            slice(left * up, left * up + part.shape[-1]),
        )
        result[where] += weight * part
        total[where] += weight
    assert result is not None and total is not None
    return result / total


def tile_starts(side: int, tile: int) -> list[int]:
    """Where tiles begin so that they cover `side`, evenly, and share at least 1 / OVERLAP of
    theirs."""
    if side <= tile:
        return [0]
    step = tile - tile // OVERLAP
    count = -(-(side - tile) // step) + 1
    return [round(i * (side - tile) / (count - 1)) for i in range(count)]


def _fading(side: int, device: torch.device) -> Tensor:
    """Weights across a tile: rising over the overlap, 1 inside, falling over the overlap; never
    0."""
    rise = (torch.arange(side, device=device) + 0.5) / max(1, side // OVERLAP)
    return torch.minimum(rise, rise.flip(0)).clamp(max=1.0)
