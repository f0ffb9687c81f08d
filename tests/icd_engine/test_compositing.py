"""Pictures leave at the size that was asked for, with the detail that the VAE lost, and with the
original's own pixels outside the mask."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from icd_engine.compositing import OTHER, SAME, finish, paste_back, with_detail
from icd_engine.feathering import distances

SIZE = (48, 32)  # width, height


@pytest.fixture
def original() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8))


@pytest.fixture
def edited() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def mask() -> np.ndarray:
    pixels = np.zeros((32, 48), dtype=np.float32)
    pixels[6:28, 10:41] = 0.3
    return pixels


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


def test_the_original_is_kept_outside_and_nothing_of_it_behind_the_ring(original, edited):
    out = paste_back(original, edited, mask(), 4.0)
    kept = np.asarray(original)
    outside = mask() == 0
    assert np.array_equal(out[outside], kept[outside])
    assert np.array_equal(out[9:25, 13:38], edited[9:25, 13:38])
    ring = ~outside
    ring[9:25, 13:38] = False
    low = np.minimum(edited, kept)[ring]
    high = np.maximum(edited, kept)[ring]
    assert (out[ring] >= low).all() and (out[ring] <= high).all()
    assert (out[ring] != edited[ring]).any() and (out[ring] != kept[ring]).any()


@pytest.mark.parametrize(("value", "whose"), [(0.0, "original"), (0.2, "edited"), (1.0, "edited")])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_whole_masks(original, edited, value, whose, kind):
    """To the bit, in bytes and floats."""
    scale = np.float32(1 if kind == np.uint8 else 255)
    pictures = {
        "original": (np.asarray(original) / scale).astype(kind),
        "edited": (edited / scale).astype(kind),
    }
    out = paste_back(original, pictures["edited"], np.full((32, 48), value), 4.0)
    assert out.dtype == kind and np.array_equal(out, pictures[whose])


@settings(deadline=None)
@given(st.data(), st.floats(0, 12))
def test_any_mask_of_any_picture(data, feather):
    """Nothing outside, all of the edit behind the ring, and between the two in it."""
    shape = data.draw(st.tuples(st.integers(1, 30), st.integers(1, 30)))
    grey = st.sampled_from([0.0, 1.0, 0.5, 0.01])
    mask = data.draw(arrays(np.float32, shape, elements=grey, fill=st.sampled_from([0.0, 1.0])))
    rng = np.random.default_rng(0)
    kept, new = rng.integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    out = paste_back(Image.fromarray(kept), new, mask, feather)
    ring = max(1.0, feather)
    behind = distances(mask > 0, ring) >= ring
    assert np.array_equal(out[mask == 0], kept[mask == 0])
    assert np.array_equal(out[behind], new[behind])
    assert (out >= np.minimum(kept, new)).all() and (out <= np.maximum(kept, new)).all()


def test_without_a_ring_all_of_the_mask_is_the_edit(original, edited):
    inside = mask() > 0
    out = paste_back(original, edited, mask(), 0.0)
    assert np.array_equal(out[inside], edited[inside])


def test_floats_are_pasted_like_bytes(original, edited):
    floats = paste_back(original, edited.astype(np.float32) / 255, mask(), 4.0)
    assert floats.dtype == np.float32
    assert np.abs(floats * 255 - paste_back(original, edited, mask(), 4.0)).max() <= 0.5 + 1e-3


def test_each_picture_has_its_own_mask(original, edited):
    pictures = [Image.fromarray(edited)] * 2
    masks = np.stack([np.zeros((32, 48)), np.ones((32, 48))]).astype(np.float32)
    done = finish(pictures, SIZE, original, masks, 4.0)
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


# --- detail ---------------------------------------------------------------------------------------


def reconstruction(size=(24, 16)) -> Image.Image:
    """Smooth, away from black and white, and smaller than the original."""
    coarse = np.random.default_rng(2).integers(80, 180, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def as_kind(pictures: list[Image.Image], kind: str):
    if kind == "pil":
        return pictures
    floats = np.stack([np.asarray(one) for one in pictures]).astype(np.float32) / 255
    return floats if kind == "np" else torch.from_numpy(floats).permute(0, 3, 1, 2)


def as_bytes(picture) -> np.ndarray:
    if isinstance(picture, torch.Tensor):
        picture = picture.permute(1, 2, 0).numpy()
    values = np.asarray(picture)
    return values if values.dtype == np.uint8 else np.rint(255 * values).astype(np.uint8)


@pytest.mark.parametrize("kind", ["pil", "np", "pt"])
def test_where_nothing_changed_the_picture_comes_back(original, kind):
    """Also by a model that works at half its size. Resizing floats and bytes differs by rounding."""
    kept = reconstruction()
    decoded = as_kind([kept], kind)
    done = with_detail(finish(decoded, SIZE), decoded, original, kept, 1.0)
    away = np.abs(as_bytes(done[0]).astype(int) - np.asarray(original))
    assert away.max() <= (0 if kind == "pil" else 2)


def test_what_changed_keeps_its_own_detail(original):
    kept = reconstruction(SIZE)
    other = Image.fromarray(np.asarray(kept) + np.uint8(OTHER))
    (done,) = with_detail([other], [other], original, kept, 1.0)
    assert np.array_equal(done, other)


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_a_share_of_the_detail(original, share):
    """Of an edit that differs little, a share of all that is lost."""
    kept = reconstruction(SIZE)
    near = np.asarray(kept) + np.uint8(SAME)
    (done,) = with_detail([Image.fromarray(near)], [Image.fromarray(near)], original, kept, share)
    lost = np.asarray(original).astype(float) - np.asarray(kept)
    expected = np.clip(near + np.rint(255 * share) / 255 * lost, 0, 255)
    assert np.abs(np.asarray(done) - expected).max() <= 0.5


def test_each_picture_gets_what_suits_it(original):
    """One half changed, the other did not; nothing jumps between them."""
    kept = reconstruction(SIZE)
    half = np.array(kept)
    half[:, 24:] += 60
    pictures = [Image.fromarray(half), kept]
    first, second = map(np.asarray, with_detail(pictures, pictures, original, kept, 1.0))
    assert np.array_equal(second, original)
    assert np.array_equal(first[:, :19], np.asarray(original)[:, :19])
    assert np.array_equal(first[:, 24:], half[:, 24:])
    low, high = (one(half, np.asarray(original)) for one in (np.minimum, np.maximum))
    assert (first >= low).all() and (first <= high).all()


def test_long_pictures_are_detailed_in_strips_without_seams():
    rng = np.random.default_rng(3)
    tall = Image.fromarray(rng.integers(0, 256, (600, 5, 3), dtype=np.uint8))
    kept = reconstruction((5, 600))
    (done,) = with_detail([kept], [kept], tall, kept, 1.0)
    assert np.array_equal(done, tall)
