"""Pictures of any size come back at their own size, and what an edit may not touch comes back
untouched."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from icd_engine.errors import SettingsError
from icd_engine.images import to_size
from icd_engine.model import fitted_size
from icd_engine.results import EditRequest

SOURCE, TARGET, OTHER = (
    "a cat sits on the mat",
    "a dog sits on the mat",
    "a red bird sits on the mat",
)
ROUNDING = 2e-5  # of another batch size
PASTE = {"paste_back": True, "seed": 1}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


@pytest.mark.parametrize(
    ("own", "works_at"),
    [
        ((64, 64), (64, 64)),
        ((32, 32), (64, 64)),
        ((500, 333), (80, 48)),
        ((333, 500), (48, 80)),
        ((1, 300), (32, 128)),
    ],
)
def test_edits_come_back_at_the_pictures_own_size(small_engine, own, works_at):
    result = small_engine.edit(picture(*own), SOURCE, [TARGET, OTHER])
    assert (result.inversion.size, result.inversion.picture_size) == (works_at, own)
    assert [one.size for one in (*result.images, result.reconstruction)] == [own] * 3
    assert result.latents.shape == (2, 4, works_at[1] // 8, works_at[0] // 8)


def test_every_output_type_is_at_the_pictures_own_size(small_engine):
    inversion = small_engine.invert(picture(50, 33), SOURCE)
    pil, array, tensor, latents = (
        inversion.edit(TARGET, output_type=kind).images for kind in ("pil", "np", "pt", "latent")
    )
    assert (
        pil[0].size == (50, 33) and array.shape == (1, 33, 50, 3) and tensor.shape == (1, 3, 33, 50)
    )
    assert torch.equal(tensor.permute(0, 2, 3, 1), torch.from_numpy(array))
    assert np.abs(np.asarray(pil[0]) / 255.0 - array[0]).mean() <= 2 / 255
    assert latents.shape == (1, 4, 6, 10)


def test_a_size_that_is_asked_for_is_worked_at_and_returned(small_engine):
    own = picture(50, 33)
    result = small_engine.edit(own, SOURCE, TARGET, size=(96, 64))
    same = small_engine.edit(
        Image.fromarray(to_size(own, (96, 64))[0]), SOURCE, TARGET, size=(96, 64)
    )
    assert result.image.size == (96, 64) and torch.equal(result.latents, same.latents)


def test_a_picture_of_the_models_aspect_is_worked_at_as_if_its_size_were_asked_for(small_engine):
    own = picture(200, 200)
    assert torch.equal(
        small_engine.edit(own, SOURCE, TARGET).latents,
        small_engine.edit(own, SOURCE, TARGET, size=(64, 64)).latents,
    )


def test_requests_of_different_sizes_are_edited_together(small_engine):
    sizes = [(64, 64), (90, 60), (32, 32), (60, 90)]
    requests = [
        EditRequest(picture(*own, seed=i), SOURCE, TARGET, {"seed": i})
        for i, own in enumerate(sizes)
    ]
    for request, result in zip(requests, small_engine.edit_many(requests), strict=True):
        alone = small_engine.edit(request.image, SOURCE, TARGET, **request.settings)
        assert result.image.size == alone.image.size == request.image.size
        assert float((result.latents - alone.latents).abs().max()) <= ROUNDING * float(
            alone.latents.abs().max()
        )


def test_blend_masks_and_shared_self_attention_follow_the_latents_shape(small_engine):
    half = np.zeros((33, 50), dtype=np.uint8)
    half[:, 25:] = 255
    inversion = small_engine.invert(picture(50, 33), SOURCE)
    masked = inversion.edit(TARGET, mask=half, self_replace=1.0)
    assert masked.hop_masks.shape == (4, 1, 6, 10)
    closed = masked.hop_masks[-1, 0] == 0
    assert torch.equal(masked.latents[0][:, closed], masked.source_latents[0][:, closed])
    assert float(masked.hop_masks[-1, 0][:, 5:].min()) == 1.0  # a cell is 5 pixels wide
    unshared = inversion.edit(TARGET, mask=half, self_replace=0.0)
    assert not torch.equal(masked.latents, unshared.latents)


def test_a_saved_inversion_keeps_both_sizes(small_engine, tmp_path):
    path = small_engine.invert(picture(50, 33), SOURCE).save(tmp_path / "i.safetensors")
    kept = small_engine.load_inversion(path)
    assert (kept.size, kept.picture_size) == ((80, 48), (50, 33))
    assert kept.edit(TARGET).image.size == (50, 33)


def test_a_file_saved_before_there_were_two_sizes(small_engine, tmp_path):
    path = small_engine.invert(picture(64, 64), SOURCE, seed=1).save(tmp_path / "i.safetensors")
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    old = {"source": SOURCE, "seed": 1, "size": [64, 64]}
    save_file(load_file(path), path, metadata | {"about": json.dumps(old)})
    assert small_engine.load_inversion(path).picture_size == (64, 64)


def test_pasting_back_by_blend_words_and_in_batches(small_engine):
    """Random weights attend evenly: the words' mask is everywhere, and so is the edit."""
    words = {"blend": ("cat", "dog")}
    plain = small_engine.edit(picture(64, 64), SOURCE, TARGET, seed=1, **words)
    pasted = small_engine.edit(picture(64, 64), SOURCE, TARGET, **words, **PASTE)
    assert float(plain.hop_masks[-1].min()) == 1.0
    assert np.array_equal(np.asarray(plain.image), np.asarray(pasted.image))
    mask = np.eye(8, dtype=np.float32)
    requests = [EditRequest(picture(64, 64), SOURCE, TARGET, {"mask": mask, **PASTE})] * 2
    one = small_engine.edit(picture(64, 64), SOURCE, TARGET, mask=mask, **PASTE)
    for result in small_engine.edit_many(requests):
        assert np.abs(np.asarray(result.image).astype(int) - np.asarray(one.image)).max() <= 1


def test_pasting_back_needs_a_mask(small_engine):
    with pytest.raises(SettingsError, match="paste_back needs blend words or a mask"):
        small_engine.edit(picture(64, 64), SOURCE, TARGET, **PASTE)
    with pytest.raises(SettingsError, match="paste_back must be True or False"):
        small_engine.edit(picture(64, 64), SOURCE, TARGET, paste_back=1)
    latents = small_engine.edit(
        picture(64, 64), SOURCE, TARGET, mask=np.eye(8), output_type="latent", **PASTE
    )
    assert torch.equal(latents.images, latents.latents)


# --- the size a model works at --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("picture", "area", "step", "expected"),
    [
        ((128, 128), (128, 128), 16, (128, 128)),
        ((300, 300), (512, 512), 64, (512, 512)),
        ((500, 333), (512, 512), 64, (640, 448)),
        ((333, 500), (512, 512), 64, (448, 640)),
        ((1024, 768), (512, 512), 64, (576, 448)),
        ((1024, 768), (1024, 1024), 64, (1152, 896)),
        ((500, 333), (128, 128), 16, (160, 112)),
        ((4096, 1), (512, 512), 64, (1024, 256)),  # 4:1 at most
        ((1, 4096), (128, 128), 16, (64, 256)),
        # The model's own aspect: its own size, whatever its steps
        ((640, 480), (640, 480), 64, (640, 480)),
    ],
)
def test_fitted_size(picture, area, step, expected):
    assert fitted_size(picture, area, step) == expected
