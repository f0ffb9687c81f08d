"""Masked edits of any picture: nothing outside of the mask changes, everything inside but for the
ring is the edit's own."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from icd_engine.errors import ImageError, SettingsError
from icd_engine.feathering import distances

SOURCE, TARGET, OTHER = (
    "a cat sits on the mat",
    "a dog sits on the mat",
    "a red bird sits on the mat",
)
few = settings(max_examples=max(10, settings.default.max_examples // 10), deadline=None)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


@st.composite
def masked_pictures(draw: st.DrawFn) -> tuple[Image.Image, np.ndarray]:
    """A picture of any size, also odd ones and slim ones, and a mask of it: any shapes, borders,
    nothing, everything, soft."""
    width, height = draw(st.tuples(st.integers(1, 90), st.integers(1, 90)))
    whole = draw(st.sampled_from([None, None, None, 0.0, 1.0]))
    if whole is not None:
        return picture(width, height), np.full((height, width), whole, dtype=np.float32)
    canvas = Image.new("L", (width, height))
    brush = ImageDraw.Draw(canvas)
    corner = st.tuples(st.integers(-5, width + 5), st.integers(-5, height + 5))
    for _ in range(draw(st.integers(1, 3))):
        one, other = draw(corner), draw(corner)
        grey = draw(st.sampled_from([255, 255, 255, 1, 100]))
        if draw(st.booleans()):
            brush.line((*one, *other), fill=grey, width=draw(st.integers(1, 9)))
        else:
            left, right = sorted((one[0], other[0]))
            top, bottom = sorted((one[1], other[1]))
            brush.ellipse((left, top, right, bottom), fill=grey)
    mask = np.asarray(canvas, dtype=np.float32) / np.float32(255)
    if draw(st.booleans()):
        mask = mask * np.linspace(0, 1, width, dtype=np.float32)
    return picture(width, height), mask


@few
@given(masked_pictures(), st.one_of(st.none(), st.floats(0, 30)))
def test_outside_nothing_changes_and_inside_all_is_the_edits_own(small_engine, masked, feather):
    own, mask = masked
    inversion = small_engine.invert(own, SOURCE)
    inversion.edit(TARGET)  # so that those compared are both re-edits
    result = inversion.edit(TARGET, mask=mask, feather=feather)
    plain = inversion.edit(TARGET, mask=mask, paste_back=False)
    got = np.asarray(result.image)
    assert np.array_equal(result.masks, mask[None])
    assert np.array_equal(got[mask == 0], np.asarray(own)[mask == 0])
    ring = max(1.0, result.settings.feather)
    behind = distances(mask > 0, ring) >= ring
    assert np.array_equal(got[behind], np.asarray(plain.image)[behind])
    if not (mask == 0).any():
        assert np.array_equal(got, np.asarray(plain.image))


@pytest.mark.parametrize("size", [None, (96, 64)], ids=["own", "asked"])
def test_ten_edits_in_a_row_leave_what_is_outside(small_engine, size):
    own = picture(75, 50)
    mask = np.zeros((50, 75), dtype=np.uint8)
    mask[10:31, 20:45] = 255
    seen = own
    prompts = [SOURCE, TARGET]
    for turn in range(10):
        result = small_engine.edit(
            seen, prompts[turn % 2], prompts[1 - turn % 2], mask=mask, size=size, seed=turn
        )
        seen = result.image
        if turn == 0:
            # Of a size that is asked for, what is kept is the picture at that size.
            kept = own if size is None else own.resize(size, Image.Resampling.BICUBIC)
    outside = result.masks[0] == 0
    assert np.array_equal(np.asarray(seen)[outside], np.asarray(kept)[outside])
    assert not np.array_equal(np.asarray(seen)[~outside], np.asarray(kept)[~outside])


def test_latents_are_free_wherever_a_cell_is_touched(small_engine):
    mask = np.zeros((64, 64), dtype=bool)
    mask[:, 31] = True
    result = small_engine.edit(picture(64, 64), SOURCE, TARGET, mask=mask)
    assert np.array_equal(np.asarray(result.hop_masks[:, 0, 0]), [[0, 0, 0, 1, 0, 0, 0, 0]] * 4)


def test_grey_cells_follow_their_source_for_the_first_hops(small_engine):
    mask = np.repeat(np.array([0, 0.1, 0.5, 0.75, 1, 1, 1, 1], np.float32), 8)
    seen = []
    result = small_engine.edit(
        picture(64, 64),
        SOURCE,
        TARGET,
        mask=np.broadcast_to(mask, (64, 64)),
        callback_on_step_end=lambda step, t, latents: seen.append(latents.clone()),
    )
    free = np.asarray(result.hop_masks)[:, 0, 0]
    expected = [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1], *[[1] * 4] * 4]
    assert np.array_equal(free.T, expected)
    for k, latents in enumerate(seen):
        same = (latents[0] == latents[1]).all(dim=0).all(dim=0)
        assert np.array_equal(np.asarray(same), free[k] == 0)


@pytest.mark.parametrize(
    ("chosen", "pastes"),
    [
        ({}, False),
        ({"blend": ("cat", "dog")}, False),
        ({"mask": np.eye(64)}, True),
        ({"mask": np.eye(64), "blend": ("cat", "dog")}, True),
        ({"mask": np.eye(64), "paste_back": False}, False),
        ({"blend": ("cat", "dog"), "paste_back": True}, True),
    ],
    ids=["plain", "words", "mask", "both", "off", "asked"],
)
def test_what_is_pasted_back_by_default(small_engine, chosen, pastes):
    result = small_engine.edit(picture(64, 64), SOURCE, [TARGET, OTHER][:1], **chosen)
    assert result.settings.paste_back is pastes
    assert (result.masks is None) == (result.hop_masks is None) == (not chosen)
    assert chosen == {} or result.masks.shape == (1, 64, 64)
    assert result.settings.feather == 4.0


def test_the_ring_is_half_a_cell_of_the_picture_that_comes_back(small_engine):
    edit = lambda width, height, **chosen: small_engine.edit(  # noqa: E731
        picture(width, height), SOURCE, TARGET, mask=np.ones((height, width)), **chosen
    )
    assert edit(128, 128).settings.feather == 8.0
    assert edit(128, 128, size=(64, 64)).settings.feather == 4.0
    assert edit(128, 128, feather=0).settings.feather == 0.0


def test_blend_words_at_the_pictures_size(small_engine):
    """Random weights attend evenly: the words' mask is everywhere, and with a mask it is that."""
    own = picture(50, 33)
    words: dict[str, Any] = {"blend": ("cat", "dog")}
    assert (small_engine.edit(own, SOURCE, TARGET, **words).masks == 1).all()
    mask = np.zeros((33, 50), dtype=np.float32)
    mask[5:20, 7:30] = 1
    result = small_engine.edit(own, SOURCE, [TARGET, OTHER], mask=mask, blend="mat")
    assert np.array_equal(result.masks, [mask, mask])
    assert result.hop_masks.shape == (4, 2, 6, 10)


def test_a_mask_of_another_shape_is_refused(small_engine):
    with pytest.raises(ImageError, match="the mask is 192 x 128 and the picture 128 x 192"):
        small_engine.edit(picture(128, 192), SOURCE, TARGET, mask=np.ones((128, 192)))
    # A size that is asked for squeezes the mask as it does the picture.
    squeezed = small_engine.edit(
        picture(128, 192), SOURCE, TARGET, mask=np.ones((192, 128)), size=(64, 48)
    )
    assert squeezed.masks.shape == (1, 48, 64)
    again = squeezed.inversion.edit(TARGET, mask=np.ones((192, 128)))
    assert np.array_equal(np.asarray(again.image).shape, (48, 64, 3))
    half = small_engine.edit(picture(128, 192), SOURCE, TARGET, mask=np.ones((96, 64)))
    assert half.masks.shape == (1, 192, 128)


def test_a_loaded_inversion_has_no_pixels_to_paste(small_engine, tmp_path):
    path = small_engine.invert(picture(50, 33), SOURCE).save(tmp_path / "i.safetensors")
    kept = small_engine.load_inversion(path)
    mask = np.tri(33, 50)
    with pytest.warns(UserWarning, match="saved inversions do not carry"):
        result = kept.edit(TARGET, mask=mask)
    assert result.settings.paste_back is False and np.array_equal(result.masks, mask[None])
    with pytest.raises(SettingsError, match="saved inversions do not carry"):
        kept.edit(TARGET, mask=mask, paste_back=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept.edit(TARGET, mask=mask, paste_back=False)
        kept.edit(TARGET, blend="mat")
