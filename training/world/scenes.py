"""Scenes of the world: one object on a textured background, and the caption that names it.

The caption names size, colour, shape, texture and background colour; position, rotation, small
colour jitter and texture phase stay hidden, so that a model that edits a picture has to read them
from the picture itself.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from training.world.shapes import REACH, SHAPES

PICTURE_SIZE = 128
MARGIN = 4.0
MAX_ROTATION = 6.0
COLOR_JITTER = 10.0

# RGB of an object, and the softer RGB of a background, called by the same word.
COLORS = {
    "red": ((215, 35, 40), (205, 90, 88)),
    "green": ((35, 150, 60), (105, 175, 115)),
    "blue": ((35, 85, 215), (100, 145, 215)),
    "yellow": ((250, 215, 40), (238, 215, 110)),
    "purple": ((135, 50, 175), (160, 115, 190)),
    "orange": ((245, 130, 25), (236, 165, 95)),
    "white": ((244, 244, 244), (238, 238, 238)),
    "black": ((22, 22, 22), (52, 52, 52)),
}
SIZES = {"small": (25.0, 2.0), "large": (36.0, 3.0)}  # radius and its jitter, px
TEXTURES = ("plain", "striped", "checkered", "dotted")

WORDS: dict[str, tuple[str, ...]] = {
    "size": tuple(SIZES),
    "color": tuple(COLORS),
    "shape": tuple(SHAPES),
    "texture": TEXTURES,
    "background": tuple(COLORS),
}
_CAPTION = re.compile(
    "a {} {} {} on a {} {} background".format(*(rf"(?P<{kind}>\w+)" for kind in WORDS))
)


@dataclass(frozen=True)
class Scene:
    """One picture of the world: five caption words, then what the caption does not say.

    x, y: centre in px (y down); radius_jitter in -1..1, scaled by the size word; rotation in
    degrees, counterclockwise; colour jitters per channel, in steps of 255; phase: texture offset in
    periods. Raises ValueError for an unknown word or an object of the background's colour.
    """

    size: str
    color: str
    shape: str
    texture: str
    background: str
    x: float
    y: float
    radius_jitter: float
    rotation: float
    color_jitter: tuple[float, float, float]
    background_jitter: tuple[float, float, float]
    phase: tuple[float, float]

    def __post_init__(self) -> None:
        for kind, words in WORDS.items():
            if getattr(self, kind) not in words:
                raise ValueError(
                    f"unknown {kind} {getattr(self, kind)!r}; known: {', '.join(words)}"
                )
        if self.color == self.background:
            raise ValueError(
                f"a {self.color} object cannot be seen on a {self.background} background"
            )

    @property
    def caption(self) -> str:
        return f"a {self.size} {self.color} {self.shape} on a {self.texture} {self.background} background"

    @property
    def radius(self) -> float:
        radius, jitter = SIZES[self.size]
        return radius + jitter * self.radius_jitter

    def edited(self, kind: str, value: str) -> "Scene":
        """The same scene with one caption word replaced and everything hidden kept; kind is one of
        WORDS."""
        check_kinds([kind])
        return replace(self, **{kind: value})

    def alternatives(self, kind: str) -> tuple[str, ...]:
        """The words of a kind that make another valid scene of this one."""
        check_kinds([kind])
        taken = {getattr(self, kind)} | (
            {self.color, self.background} if kind in ("color", "background") else set()
        )
        return tuple(word for word in WORDS[kind] if word not in taken)


def check_kinds(kinds: Sequence[str]) -> None:
    for kind in kinds:
        if kind not in WORDS:
            raise ValueError(f"unknown kind {kind!r}; known: {', '.join(WORDS)}")


def parse_caption(caption: str) -> dict[str, str]:
    """The words of a caption by kind; ValueError when it is not a caption of this world."""
    match = _CAPTION.fullmatch(caption)
    if match is None or any(match[kind] not in words for kind, words in WORDS.items()):
        raise ValueError(f"not a caption of this world: {caption!r}")
    return match.groupdict()


def sample_scene(rng: np.random.Generator) -> Scene:
    """A random scene. Its position suits every shape, rotation and size, so that edited objects fit
    the picture too."""
    words = {
        kind: words[rng.integers(len(words))]
        for kind, words in WORDS.items()
        if kind != "background"
    }
    backgrounds = [word for word in WORDS["background"] if word != words["color"]]
    words["background"] = backgrounds[rng.integers(len(backgrounds))]
    radius_jitter = float(rng.uniform(-1, 1))
    largest = max(radius + jitter * radius_jitter for radius, jitter in SIZES.values())
    room = PICTURE_SIZE / 2 - MARGIN - REACH * largest
    x, y = (PICTURE_SIZE / 2 + rng.uniform(-room, room, 2)).tolist()
    jitter = rng.uniform(-COLOR_JITTER, COLOR_JITTER, (2, 3)).tolist()
    return Scene(
        **words,
        x=x,
        y=y,
        radius_jitter=radius_jitter,
        rotation=float(rng.uniform(-MAX_ROTATION, MAX_ROTATION)),
        color_jitter=tuple(jitter[0]),
        background_jitter=tuple(jitter[1]),
        phase=tuple(rng.uniform(0, 1, 2).tolist()),
    )


def sample_edit(rng: np.random.Generator, kind: str) -> tuple[Scene, Scene]:
    """A random scene, and the same with another word of the kind."""
    scene = sample_scene(rng)
    words = scene.alternatives(kind)
    return scene, scene.edited(kind, words[rng.integers(len(words))])
