"""A procedural world of captioned scenes, 128x128, in which every edit of one caption word has an
exact true picture.

A scene is one object on a textured background, drawn from signed distance functions. The caption
names size, colour, shape, texture and background colour; position, rotation, small colour jitter
and texture phase stay hidden, so that a model that edits a picture has to read them from the
picture itself.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

PICTURE_SIZE = 128
MARGIN = 4.0
MAX_ROTATION = 6.0
COLOR_JITTER = 10.0
CHANGE_THRESHOLD = 8
DILATION = 3

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
TEXTURE_PERIODS = {"striped": 20.0, "checkered": 24.0, "dotted": 20.0}  # px
# Share of white in the light shade and of black in the dark one: they are 41 of 255 apart, whatever
# the colour.
TEXTURE_CONTRAST = 0.16

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
        _check_kinds([kind])
        return replace(self, **{kind: value})

    def alternatives(self, kind: str) -> tuple[str, ...]:
        """The words of a kind that make another valid scene of this one."""
        _check_kinds([kind])
        taken = {getattr(self, kind)} | (
            {self.color, self.background} if kind in ("color", "background") else set()
        )
        return tuple(word for word in WORDS[kind] if word not in taken)


@dataclass(frozen=True)
class Pair:
    """A picture and its exact edit, uint8 [128, 128, 3]; their mask, bool [128, 128]; the kind of
    word changed."""

    picture: Array
    truth: Array
    mask: Array
    source: str
    target: str
    kind: str


def _check_kinds(kinds: Sequence[str]) -> None:
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


def draw(scene: Scene) -> Array:
    """The picture of a scene, uint8 [128, 128, 3]."""
    return draw_batch([scene])[0]


def draw_batch(scenes: Sequence[Scene]) -> Array:
    """The pictures of scenes, uint8 [N, 128, 128, 3]."""
    pictures = np.empty((len(scenes), PICTURE_SIZE, PICTURE_SIZE, 3), np.uint8)
    # One picture at a time: its planes stay in the cache, which beats arithmetic on the whole
    # batch.
    for scene, picture in zip(scenes, pictures, strict=True):
        planes = _draw_background(scene)
        _draw_object(scene, planes)
        picture[:] = (planes + 0.5).astype(np.uint8).transpose(1, 2, 0)
    return pictures


def _draw_background(scene: Scene) -> Array:
    """float32 [3, 128, 128] in 0..255."""
    base = _jittered(COLORS[scene.background][1], scene.background_jitter)
    planes = np.empty((3, PICTURE_SIZE, PICTURE_SIZE), np.float32)
    if scene.texture == "plain":
        planes[:] = base
        return planes
    dark = base * (1 - TEXTURE_CONTRAST)
    light = base + (255 - base) * TEXTURE_CONTRAST
    np.multiply(_texture(scene), light - dark, out=planes)
    planes += dark
    return planes


def _texture(scene: Scene) -> Array:
    """Share of the light shade, float32, broadcastable to [128, 128]."""
    period = TEXTURE_PERIODS[scene.texture]
    pixels = np.arange(PICTURE_SIZE, dtype=np.float32) + 0.5
    # Distance of each column and row from the middle of its period, px.
    x, y = (
        np.abs((pixels - np.float32(phase * period)) % period - period / 2) for phase in scene.phase
    )
    if scene.texture == "dotted":
        return _coverage(np.sqrt(x * x + (y * y)[:, None]) - 0.34 * period)
    columns = _coverage(x - period / 4)
    if scene.texture == "striped":
        return columns
    rows = _coverage(y - period / 4)[:, None]
    return columns + rows - 2 * columns * rows


def _draw_object(scene: Scene, planes: Array) -> None:
    """Blends the object into planes [3, 128, 128]; only the window it can reach is computed."""
    reach = REACH * scene.radius + 1
    left, top = (max(int(centre - reach), 0) for centre in (scene.x, scene.y))
    right, bottom = (min(int(centre + reach) + 1, PICTURE_SIZE) for centre in (scene.x, scene.y))
    x = (np.arange(left, right, dtype=np.float32) + np.float32(0.5 - scene.x)) / np.float32(
        scene.radius
    )
    y = (np.float32(scene.y - 0.5) - np.arange(top, bottom, dtype=np.float32))[
        :, None
    ] / np.float32(scene.radius)
    angle = np.deg2rad(scene.rotation)
    cos = np.float32(np.cos(angle))
    sin = np.float32(np.sin(angle))
    distance = SHAPES[scene.shape](cos * x + sin * y, cos * y - sin * x)
    coverage = _coverage(distance * np.float32(scene.radius))
    window = planes[:, top:bottom, left:right]
    # In this form a coverage of 0 or 1 is exact, so that pixels an edit does not touch are equal to
    # the last bit.
    window *= 1 - coverage
    window += coverage * _jittered(COLORS[scene.color][0], scene.color_jitter)


def _coverage(distance: Array) -> Array:
    """Share of a pixel inside an edge at a signed distance in px."""
    return np.clip(0.5 - distance, 0, 1)


def _jittered(color: tuple[int, int, int], jitter: tuple[float, float, float]) -> Array:
    """float32 [3, 1, 1] in 0..255."""
    return np.clip(np.add(color, jitter), 0, 255).astype(np.float32)[:, None, None]


def change_mask(picture: Array, truth: Array) -> Array:
    """bool [h, w]: pixels of two uint8 pictures that differ by more than noise, grown by DILATION
    px to every side."""
    changed = np.abs(picture.astype(np.int16) - truth).max(-1) > CHANGE_THRESHOLD
    for axis in (0, 1):
        padding = [(DILATION, DILATION) if axis == a else (0, 0) for a in (0, 1)]
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(changed, padding), 2 * DILATION + 1, axis
        )
        changed = windows.max(-1)
    return changed


def sample_pairs(
    n: int, seed: int, kinds: Sequence[str] = ("color", "background", "shape")
) -> list[Pair]:
    """n random edits, the kinds in turn; equal arguments give equal pairs.

    Raises ValueError for an unknown kind.
    """
    _check_kinds(kinds)
    rng = np.random.default_rng(seed)
    chosen = [kinds[i % len(kinds)] for i in range(n)]
    return [pair_of(*sample_edit(rng, kind), kind) for kind in chosen]


def sample_edit(rng: np.random.Generator, kind: str) -> tuple[Scene, Scene]:
    """A random scene, and the same with another word of the kind."""
    scene = sample_scene(rng)
    words = scene.alternatives(kind)
    return scene, scene.edited(kind, words[rng.integers(len(words))])


def pair_of(scene: Scene, edited: Scene, kind: str) -> Pair:
    """Both pictures and what differs."""
    picture, truth = draw_batch([scene, edited])
    return Pair(picture, truth, change_mask(picture, truth), scene.caption, edited.caption, kind)


def write_pairs(pairs: Iterable[Pair], folder: Path) -> Path:
    """Writes PNG files, then folder/pairs.json: [{picture, truth, mask, source, target, kind},
    ...], paths relative."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for i, pair in enumerate(pairs):
        files = {name: f"{i:04d}_{name}.png" for name in ("picture", "truth", "mask")}
        for name, file in files.items():
            Image.fromarray(getattr(pair, name)).convert("L" if name == "mask" else "RGB").save(
                folder / file
            )
        entries.append({**files, "source": pair.source, "target": pair.target, "kind": pair.kind})
    path = folder / "pairs.json"
    path.write_text(json.dumps(entries, indent=1) + "\n")
    return path


def contact_sheet(scenes: Sequence[Scene], columns: int = 6) -> Image.Image:
    """Pictures with their captions below, to be looked at."""
    width = PICTURE_SIZE + 20
    height = PICTURE_SIZE + 36
    sheet = Image.new("RGB", (columns * width, -(-len(scenes) // columns) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (scene, picture) in enumerate(zip(scenes, draw_batch(scenes), strict=True)):
        x = i % columns * width + 10
        y = i // columns * height + 4
        sheet.paste(Image.fromarray(picture), (x, y))
        pen.text(
            (x, y + PICTURE_SIZE + 2),
            scene.caption.replace(" on ", "\non "),
            fill="black",
            font_size=9,
        )
    return sheet


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.world", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--pairs", type=int, metavar="N", help="write N pairs of pictures and true edits to --out"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="DIR")
    parser.add_argument(
        "--kinds",
        default="color,background,shape",
        help="what to edit, in turn (default: %(default)s)",
    )
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE", help="write a contact sheet of random scenes"
    )
    options = parser.parse_args(arguments)
    if options.pairs is None and options.sheet is None:
        parser.error("nothing to do: give --pairs N --out DIR, or --sheet FILE")
    if options.pairs is not None:
        if options.pairs < 1 or options.out is None:
            parser.error("--pairs needs a number above 0, and --out")
        try:
            pairs = sample_pairs(options.pairs, options.seed, options.kinds.split(","))
        except ValueError as error:
            parser.error(str(error))
        print(write_pairs(pairs, options.out))
    if options.sheet is not None:
        rng = np.random.default_rng(options.seed)
        contact_sheet([sample_scene(rng) for _ in range(48)]).save(options.sheet)
        print(options.sheet)


if __name__ == "__main__":
    main()
