"""Pictures leave at the size that was asked for, and with the original's own pixels outside the
mask."""

import numpy as np
import pytest
import torch
from PIL import Image

from icd_engine.compositing import finish, paste_back

SIZE = (48, 32)  # width, height: cells of 8 pixels for a mask [4, 6]


@pytest.fixture
def original() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8))


@pytest.fixture
def edited() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def mask() -> np.ndarray:
    cells = np.zeros((4, 6), dtype=np.float32)
    cells[1, 1] = 1
    return cells


def test_pictures_of_the_size_are_left_alone(edited):
    floats = edited.astype(np.float32) / 255
    assert np.array_equal(np.asarray(finish([Image.fromarray(edited)], SIZE)[0]), edited)
    assert np.array_equal(finish(floats[None], SIZE)[0], floats)


def test_every_kind_is_resized_alike(edited):
    wide, edited = (96, 80), edited // 2 + 64  # PIL clips bytes between its two passes
    picture = finish([Image.fromarray(edited)], wide)[0]
    floats = (edited.astype(np.float32) / 255)[None]
    array = finish(floats, wide)
    tensor = finish(torch.from_numpy(floats).permute(0, 3, 1, 2), wide)
    assert picture.size == wide and array.shape == (1, 80, 96, 3) and tensor.shape == (1, 3, 80, 96)
    assert torch.equal(tensor.permute(0, 2, 3, 1), torch.from_numpy(array))
    # PIL rounds twice in 8 bits, once for each axis.
    assert np.abs(np.asarray(picture) / 255.0 - array[0]).max() <= 1.5 / 255
    assert array.min() >= 0 and array.max() <= 1


def test_the_original_is_kept_exactly_outside_and_nothing_of_it_inside(original, edited):
    out = paste_back(original, edited, mask())
    assert np.array_equal(out[8:16, 8:16], edited[8:16, 8:16])  # the masked cell
    far = np.ones((32, 48), dtype=bool)
    far[:28, :28] = False  # the cell, one cell of growth, and the half cell over which it fades
    kept = np.asarray(original)
    assert np.array_equal(out[far], kept[far])
    between = out[8:16, 16:28].astype(int)
    low, high = np.minimum(edited, kept)[8:16, 16:28], np.maximum(edited, kept)[8:16, 16:28]
    assert (between >= low).all() and (between <= high).all()
    assert (between != edited[8:16, 16:28]).any() and (between != kept[8:16, 16:28]).any()


@pytest.mark.parametrize(("value", "whose"), [(0.0, "original"), (1.0, "edited")])
def test_whole_masks(original, edited, value, whose):
    out = paste_back(original, edited, np.full((4, 6), value, dtype=np.float32))
    assert np.array_equal(out, np.asarray(original) if whose == "original" else edited)


def test_floats_are_pasted_like_bytes(original, edited):
    floats = paste_back(original, edited.astype(np.float32) / 255, mask())
    assert floats.dtype == np.float32
    assert np.abs(floats * 255 - paste_back(original, edited, mask())).max() <= 0.5 + 1e-3


def test_each_picture_has_its_own_mask(original, edited):
    pictures = [Image.fromarray(edited)] * 2
    done = finish(
        pictures, SIZE, original, [np.zeros((4, 6), np.float32), np.ones((4, 6), np.float32)]
    )
    assert np.array_equal(np.asarray(done[0]), np.asarray(original))
    assert np.array_equal(np.asarray(done[1]), edited)


@pytest.mark.parametrize("kind", ["pil", "np", "pt"])
def test_what_is_done_comes_back_as_it_is(kind):
    arrays = np.random.default_rng(0).random((2, 6, 8, 3), dtype=np.float32)
    pictures = {
        "pil": [Image.new("RGB", (8, 6)) for _ in range(2)],
        "np": arrays,
        "pt": torch.from_numpy(arrays).permute(0, 3, 1, 2),
    }[kind]
    assert finish(pictures, (8, 6)) is pictures
    assert finish(pictures, (8, 6), Image.new("RGB", (8, 6)), None) is pictures
    assert finish(pictures, (9, 6)) is not pictures
