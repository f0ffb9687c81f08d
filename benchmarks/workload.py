"""What the edit benchmarks edit: pictures and prompts of the embedded model's world, no two repeats
alike."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from icd_engine.results import EditRequest
from training.world.drawing import draw
from training.world.scenes import COLORS, TEXTURES, parse_caption, sample_scene
from training.world.shapes import SHAPES

PLAIN = {"detail": 0.0}
CAPTION = "a {size} {color} {shape} on a {texture} {background} background"


@dataclass(frozen=True)
class Case:
    """One edit: all that an engine or a baseline is told."""

    picture: Image.Image = field(repr=False)
    source: str
    target: str
    settings: dict[str, Any]

    @property
    def request(self) -> EditRequest:
        return EditRequest(self.picture, self.source, self.target, self.settings)


def make_cases(count: int, size: tuple[int, int]) -> list[Case]:
    """Edits of the colour word with prompt-to-prompt, amplification and local blend, no two of the
    same source prompt.

    Prompts, pictures and seeds differ, so that an engine which keeps what it knows of a prompt
    gains by that only what it would gain in use. Every model can read the words: the random bundles
    have the embedded model's vocabulary. Pictures come as the VAE decodes them, as they do from
    every baseline.
    """
    cases: dict[str, Case] = {}
    for seed in itertools.count():
        if len(cases) == count:
            return list(cases.values())
        scene = sample_scene(np.random.default_rng(seed))
        picture = Image.fromarray(draw(scene)).resize(size, Image.Resampling.BICUBIC)
        colour = scene.alternatives("color")[0]
        target = scene.edited("color", colour).caption
        settings = PLAIN | {
            "seed": seed,
            "blend": (scene.shape, scene.shape),
            "amplify": {colour: 2.0},
        }
        cases.setdefault(scene.caption, Case(picture, scene.caption, target, settings))
    raise AssertionError("itertools.count ended")


def further_cases(case: Case, count: int) -> list[Case]:
    """The same picture and source towards other colours, shapes and textures; from the 140th on
    they come again."""
    words = parse_caption(case.source)
    colours = [word for word in COLORS if word not in (words["color"], words["background"])]
    found = []
    for texture, shape, colour in itertools.product(TEXTURES, SHAPES, colours):
        target = CAPTION.format(**words | {"texture": texture, "shape": shape, "color": colour})
        blend = (words["shape"], shape)
        found.append(
            replace(
                case,
                target=target,
                settings=case.settings | {"blend": blend, "amplify": {colour: 2.0}},
            )
        )
    return list(itertools.islice(itertools.cycle(found), count))


def unanchored(case: Case) -> Case:
    """The same edit by the published decoding, which baselines are."""
    return replace(case, settings=case.settings | {"anchor": 0.0})


def without_control(case: Case) -> Case:
    """The same edit by the prompt alone: no attention edited, nothing blended."""
    return replace(case, settings=PLAIN | {"seed": case.settings["seed"], "control": "none"})
