"""Scenes: the same from a seed, captions that can be read back, edits of one word."""

from dataclasses import replace

import numpy as np
import pytest

from training.world.drawing import draw, draw_batch
from training.world.scenes import WORDS, Scene, parse_caption, sample_scene


def scenes(n: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng) for _ in range(n)]


PLAIN = replace(
    scenes(1)[0],
    size="large",
    color="white",
    shape="circle",
    texture="plain",
    background="black",
)


def test_same_seed_gives_the_same_scenes_and_pictures() -> None:
    assert scenes(20, seed=3) == scenes(20, seed=3)
    assert scenes(20, seed=3) != scenes(20, seed=4)
    np.testing.assert_array_equal(
        draw_batch(scenes(20)), np.stack([draw(scene) for scene in scenes(20)])
    )


def test_every_word_is_drawn_and_captions_parse_back() -> None:
    seen = {kind: set() for kind in WORDS}
    for scene in scenes(400):
        words = parse_caption(scene.caption)
        assert words == {kind: getattr(scene, kind) for kind in WORDS}
        assert words["color"] != words["background"]
        for kind, word in words.items():
            seen[kind].add(word)
    assert seen == {kind: set(words) for kind, words in WORDS.items()}


def test_caption_is_the_agreed_sentence() -> None:
    assert PLAIN.caption == "a large white circle on a plain black background"


@pytest.mark.parametrize(
    "caption", ["a small red circle", "a small red dog on a plain blue background", ""]
)
def test_foreign_captions_are_refused(caption: str) -> None:
    with pytest.raises(ValueError, match="not a caption"):
        parse_caption(caption)


@pytest.mark.parametrize("kind", list(WORDS))
def test_an_edit_changes_one_word_and_nothing_hidden(kind: str) -> None:
    for scene in scenes(30):
        for word in scene.alternatives(kind):
            edited = scene.edited(kind, word)
            changed = {
                name for name in vars(scene) if getattr(scene, name) != getattr(edited, name)
            }
            assert changed == {kind}
            assert edited.edited(kind, getattr(scene, kind)) == scene


def test_impossible_edits_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown shape 'dog'"):
        PLAIN.edited("shape", "dog")
    with pytest.raises(ValueError, match="unknown kind 'x'"):
        PLAIN.edited("x", "red")
    with pytest.raises(ValueError, match="cannot be seen"):
        PLAIN.edited("color", "black")
