"""A method that inverts every picture."""

import numpy as np

from benchmarks.evaluation.suites import Edited, Item

PICTURE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def items(count: int = 3) -> list[Item]:
    mask = np.zeros((16, 16), bool)
    mask[:8] = True
    return [
        Item(f"i{i}", "color", "a", "b", lambda: PICTURE, truth=255 - PICTURE, mask=mask)
        for i in range(count)
    ]


def inverting(calls: list[str]):
    def method(item: Item) -> Edited:
        calls.append(item.name)
        return Edited(255 - item.picture(), item.picture(), 8, 0.5)

    return method
