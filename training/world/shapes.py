"""The shapes of the world as signed distances: negative inside, 0 on the outline, for radius 1."""

from collections.abc import Callable

import numpy as np

Array = np.ndarray


def _circle(x: Array, y: Array) -> Array:
    return np.sqrt(x * x + y * y) - 0.94


def _square(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - 0.83


def _triangle(x: Array, y: Array) -> Array:
    return np.maximum(0.8660254 * np.abs(x) + 0.5 * y, -y) - 0.67


def _cross(x: Array, y: Array) -> Array:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 1.02, np.minimum(x, y) - 0.43)


def _star(x: Array, y: Array) -> Array:
    """Five points: the plane is folded onto the wedge between one tip and the next notch, which one
    line bounds."""
    tip, notch = 1.24, 0.7
    sin36 = 0.58778525
    cos36 = 0.80901699
    x = np.abs(x)
    for side in (1.0, -1.0):
        fold = 2 * np.maximum(side * cos36 * x - sin36 * y, 0)
        x = x - side * cos36 * fold
        y = y + sin36 * fold
    edge_x = notch * sin36
    edge_y = notch * cos36 - tip
    length = float(np.hypot(edge_x, edge_y))
    return ((y - tip) * edge_x - np.abs(x) * edge_y) / length


def _heart(x: Array, y: Array) -> Array:
    """Two half discs on two sides of a square that stands on its corner (tip at the origin, notch
    at height 1)."""
    scale = 1.75
    x = np.abs(x) / scale
    y = y / scale + 0.6
    lobe = np.sqrt((x - 0.25) ** 2 + (y - 0.75) ** 2) - 0.35355339
    foot = 0.5 * np.maximum(x + y, 0)
    sides = np.sqrt(np.minimum(x * x + (y - 1) ** 2, (x - foot) ** 2 + (y - foot) ** 2)) * np.sign(
        x - y
    )
    return np.where(x + y > 1, lobe, sides) * scale


# Signed distances for radius 1, y up, negative inside; areas are 2.3 to 2.8, no point is farther
# than REACH from 0.
SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
}
REACH = 1.345
