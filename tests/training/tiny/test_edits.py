"""The cache of edits' latents: the picture beside each is the world's nearest, far ones are left out,
and what is there is not made again."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import load_file

from icd_engine.errors import SettingsError
from icd_engine.images import psnr
from training.tiny import edits
from training.tiny.edits import EditPool, make_edits, nearest, recoloured
from training.world.drawing import draw
from training.world.placement import ShapePlace
from training.world.scenes import sample_scene


class Editor:
    """Answers every second edit with its source picture, the others with noise."""

    def __init__(self):
        self.asked = 0

    def edit_many(self, requests):
        self.asked += 1
        rng = np.random.default_rng(0)
        noise = rng.integers(0, 256, (128, 128, 3)).astype(np.uint8)
        return [
            SimpleNamespace(
                latents=np.full((1, 4, 16, 16), i, np.float32),
                image=noise if i % 2 else request.image,
            )
            for i, request in enumerate(requests)
        ]


@pytest.mark.parametrize("seed", range(4))
def test_colours_are_found_again(seed):
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng)
    other = replace(scene, color_jitter=(4.0, -6.0, 2.0), background_jitter=(-3.0, 5.0, 1.0))
    found = recoloured(draw(other), recoloured(draw(other), scene))
    # A step of 255 is the least that a picture tells; shades of a texture move by 0.84 of what the
    # colour does, so that 0.16 squared of up to 20 steps is left, too
    assert found.color_jitter == pytest.approx(other.color_jitter, abs=1.01)
    assert found.background_jitter == pytest.approx(other.background_jitter, abs=1.7)


def test_colours_stay_the_word_s():
    scene = sample_scene(np.random.default_rng(5))
    found = recoloured(np.full((128, 128, 3), 120, np.uint8), scene)
    jitters = np.abs([*found.color_jitter, *found.background_jitter])
    assert jitters.max() <= edits.COLOR_JITTER


def test_a_moved_object_is_found():
    scene = sample_scene(np.random.default_rng(6))
    moved = ShapePlace(3.0, -2.0, 1.0).of(replace(scene, color_jitter=(3.0, 3.0, -3.0)))
    picture = draw(moved)
    assert psnr(draw(scene), picture) < 28
    assert psnr(draw(nearest(picture, scene)), picture) > 38


def test_far_edits_are_left_out_and_blocks_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(edits, "SHARD", 3)
    monkeypatch.setattr(edits, "KINDS", ("color",))
    monkeypatch.setattr(edits, "nearest", lambda picture, scene: scene)
    monkeypatch.setattr(edits, "psnr", lambda near, found: 40.0 if found.std() < 70 else 9.0)
    first = Editor()
    make_edits(tmp_path, first, 4)
    assert first.asked == 2
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == [
        "edits-00000.safetensors",
        "edits-00001.safetensors",
    ]
    assert load_file(files[0])["latents"][:, 0, 0, 0].tolist() == [0, 2]
    files[0].unlink()
    again = Editor()
    make_edits(tmp_path, again, 4)
    assert again.asked == 1
    pool = EditPool(tmp_path)
    assert len(pool) == 3
    latents, pictures = pool.draw(np.random.default_rng(0), 5)
    assert latents.shape == (5, 4, 16, 16) and pictures.shape == (5, 128, 128, 3)


def test_no_edits_is_said(tmp_path):
    with pytest.raises(SettingsError, match="holds no edits"):
        EditPool(tmp_path)
