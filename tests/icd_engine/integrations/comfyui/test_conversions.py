"""Types of ComfyUI and the engine's: every value of 8 bits survives, both ways."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from icd_engine.errors import ImageError
from icd_engine.integrations.comfyui.conversions import (
    to_image,
    to_latent,
    to_mask,
    to_masks,
    to_pictures,
)

LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16)
PICTURE = np.stack([LEVELS, LEVELS.T, LEVELS[::-1]], -1)


def loaded(pixels: np.ndarray) -> torch.Tensor:
    """As ComfyUI's LoadImage has it."""
    return torch.from_numpy(pixels.astype(np.float32) / 255.0)[None]


def saved(image: torch.Tensor) -> np.ndarray:
    """As ComfyUI's SaveImage has it, which cuts and does not round."""
    return np.clip(255.0 * image[0].numpy(), 0, 255).astype(np.uint8)


def test_every_level_survives():
    (picture,) = to_pictures(loaded(PICTURE))
    assert np.array_equal(np.asarray(picture), PICTURE)
    image = to_image([picture])
    assert image.dtype == torch.float32 and image.shape == (1, 16, 16, 3)
    assert torch.equal(image, loaded(PICTURE))
    assert np.array_equal(saved(image), PICTURE)


def test_batches_and_a_fourth_channel():
    batch = torch.cat([loaded(PICTURE), loaded(PICTURE[::-1].copy())])
    pictures = to_pictures(torch.cat([batch, torch.zeros(2, 16, 16, 1)], -1))
    assert len(pictures) == 2 and torch.equal(to_image(pictures), batch)


def test_what_overshoots_is_cut():
    (picture,) = to_pictures(torch.full((1, 8, 8, 3), 1.2))
    assert np.asarray(picture).min() == 255


@pytest.mark.parametrize(
    "image", [torch.zeros(8, 8, 3), torch.zeros(1, 3, 8, 8), torch.zeros(0, 8, 8, 3)]
)
def test_what_is_no_image(image):
    with pytest.raises(ImageError, match="IMAGE"):
        to_pictures(image)


def test_not_a_number():
    with pytest.raises(ImageError, match="NaN"):
        to_pictures(torch.full((1, 8, 8, 3), torch.nan))


def test_masks():
    mask = torch.rand(2, 8, 10)
    first, second = to_masks(mask, 2)
    assert np.array_equal(first, mask[0]) and np.array_equal(second, mask[1])
    for one in (mask[:1], mask[0]):
        assert all(np.array_equal(own, mask[0]) for own in to_masks(one, 3))
    assert to_masks(None, 2) == [None, None]
    assert to_masks(torch.zeros(1, 64, 64), 2) == [None, None]  # what LoadImage gives without one
    assert to_masks(torch.zeros(1, 64, 65), 1)[0] is not None
    with pytest.raises(ImageError, match="MASK"):
        to_masks(mask, 3)
    back = to_mask([first, None], (10, 8))
    assert torch.equal(back, torch.stack([mask[0], torch.ones(8, 10)]))


def test_latents_are_those_of_the_vae():
    latents = [torch.randn(1, 4, 2, 3), torch.randn(1, 4, 2, 3)]
    samples = to_latent(latents, 0.18215)["samples"]
    assert samples.shape == (2, 4, 2, 3)
    torch.testing.assert_close(samples * 0.18215, torch.cat(latents))
    assert to_latent([np.ones((1, 4, 1, 1), np.float32)], 0.5)["samples"].unique() == 2


def test_a_picture_with_transparency_is_rgb():
    assert to_image([Image.new("RGBA", (4, 4), (1, 2, 3, 0))]).shape == (1, 4, 4, 3)
