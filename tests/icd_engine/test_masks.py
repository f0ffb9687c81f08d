"""Masks of every kind: right values or one typed error; what they let cells and pixels do."""

import numpy as np
import pytest
import torch
from PIL import Image

from icd_engine.errors import ImageError
from icd_engine.masks import by_hop, enlarged, for_targets, load_mask, touched
from tests.icd_engine.images.encoding import encoded


@pytest.fixture
def mask() -> np.ndarray:
    """bool [6, 4], the lower right part may change."""
    return np.add.outer(np.arange(6), np.arange(4)) > 4


@pytest.mark.parametrize(
    "make",
    [
        lambda m: m,
        lambda m: m.astype(np.uint8),
        lambda m: m.astype(np.uint8) * 255,
        lambda m: m.astype(np.int64),
        lambda m: m.astype(np.uint16) * 65535,
        lambda m: m.astype(np.float16),
        lambda m: m[..., None],
        lambda m: m[None, None],
        lambda m: torch.from_numpy(m),
        lambda m: torch.from_numpy(m)[None].float(),
        lambda m: Image.fromarray(m),
        lambda m: Image.fromarray(m.astype(np.uint8) * 255).convert("RGB"),
        lambda m: Image.merge(
            "LA", [Image.new("L", (4, 6), 255), Image.fromarray(m.astype(np.uint8) * 255)]
        ),
        lambda m: encoded(m.astype(np.uint8) * 255),
    ],
    ids=[
        "bool",
        "uint8-01",
        "uint8",
        "int64-01",
        "uint16",
        "float16",
        "hw1",
        "11hw",
        "torch",
        "torch-float",
        "pil-1",
        "pil-rgb",
        "brush-layer",
        "png",
    ],
)
def test_masks_of_every_kind(make, mask: np.ndarray):
    values = load_mask(make(mask), (4, 6))
    assert values.dtype == np.float32 and np.array_equal(values, mask)


def test_soft_masks_keep_their_values():
    soft = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(load_mask(soft, (4, 3)), soft)


# --- other sizes ----------------------------------------------------------------------------------


def test_a_soft_mask_is_averaged_or_enlarged_between_its_values():
    soft = np.linspace(0, 1, 24, dtype=np.float32).reshape(6, 4)
    expected = soft.reshape(3, 2, 2, 2).mean(axis=(1, 3))
    assert np.allclose(load_mask(soft, (2, 3)), expected, rtol=0, atol=1e-6)
    wide = load_mask(soft, (12, 18))
    assert wide.shape == (18, 12) and wide.min() == 0 and wide.max() == 1
    assert (np.diff(wide, axis=0) >= 0).all() and len(np.unique(wide)) > 24


def test_a_hard_mask_stays_hard_and_thin_parts_of_it_stay(mask: np.ndarray):
    line = np.zeros((600, 400), dtype=np.uint8)
    line[:, 13] = 255
    shrunk = load_mask(line, (40, 60))
    assert np.array_equal(np.flatnonzero(shrunk.all(axis=0)), [1]) and shrunk.sum() == 60
    wide = load_mask(mask, (40, 60))
    assert set(np.unique(wide)) == {0.0, 1.0}
    assert abs(wide.mean() - mask.mean()) < 0.02
    assert np.array_equal(load_mask(np.zeros((3, 3), bool), (8, 8)), np.zeros((8, 8)))


@pytest.mark.parametrize(
    ("own", "size"),
    [((333, 500), (50, 33)), ((33, 50), (500, 333)), ((34, 50), (500, 333)), ((1, 1), (7, 7))],
)
def test_sizes_of_one_aspect_to_a_pixels_rounding(own, size):
    assert load_mask(np.ones(own, bool), size).shape == size[::-1]


@pytest.mark.parametrize(
    ("own", "size"), [((192, 128), (192, 128)), ((8, 8), (50, 33)), ((1, 9), (20, 30))]
)
def test_another_shape_is_refused_with_both_sizes(own, size):
    text = f"the mask is {own[1]} x {own[0]} and the picture {size[0]} x {size[1]}.*EXIF"
    with pytest.raises(ImageError, match=text):
        load_mask(np.ones(own, bool), size)


# --- files ----------------------------------------------------------------------------------------


def test_strokes_of_any_colour_on_a_transparent_layer(mask: np.ndarray):
    layer = np.zeros((6, 4, 4), np.uint8)
    layer[mask] = (200, 10, 30, 255)
    layer[5, 3] = (200, 10, 30, 51)  # the soft edge of a brush
    expected = mask.astype(np.float32)
    expected[5, 3] = 0.2
    assert np.allclose(load_mask(encoded(layer), (4, 6)), expected, rtol=0, atol=1e-6)
    with pytest.warns(UserWarning, match="nothing change"):
        assert load_mask(Image.new("RGBA", (4, 6), (255, 255, 255, 0)), (4, 6)).max() == 0


def photo_with_a_hole(mask: np.ndarray) -> Image.Image:
    """As OpenAI's API has masks: the picture, transparent where it may change."""
    values = np.random.default_rng(0).integers(0, 256, (*mask.shape, 4), dtype=np.uint8)
    values[..., 3] = np.where(mask, 0, 255)
    return Image.fromarray(values)


def test_transparency_that_may_mean_two_things_is_refused_and_both_are_named(mask: np.ndarray):
    hole = photo_with_a_hole(mask)
    with pytest.raises(ImageError, match=r"mask_alpha='painted' .* mask_alpha='hole' .*OpenAI"):
        load_mask(hole, (4, 6))
    assert np.array_equal(load_mask(hole, (4, 6), alpha="hole"), mask)
    assert np.array_equal(load_mask(hole, (4, 6), alpha="painted"), ~mask)


def test_a_picture_of_one_colour_around_its_hole_is_no_stroke():
    """What was seen in the hole is still in the file."""
    values = np.full((16, 16, 4), 90, np.uint8)
    values[4:9, 4:9, :3] = np.random.default_rng(0).integers(0, 256, (5, 5, 3))
    values[..., 3] = 255
    values[3:10, 3:10, 3] = 0
    with pytest.raises(ImageError, match="two things"):
        load_mask(Image.fromarray(values), (16, 16))


@pytest.mark.parametrize("alpha", [None, "painted", "hole"])
def test_stray_transparent_pixels_mean_nothing(alpha):
    """White on black stays that, whatever one pixel's alpha is."""
    shape = np.zeros((64, 64), bool)
    shape[20:40, 20:40] = True
    values = np.repeat(shape[..., None] * np.uint8(255), 4, axis=2)
    values[..., 3] = 255
    values[0, :15, 3] = 0
    values[50, 50, 3] = 254
    assert np.array_equal(load_mask(Image.fromarray(values), (64, 64), alpha=alpha), shape)
    values[0, 15, 3] = 0
    if alpha:
        read = load_mask(Image.fromarray(values), (64, 64), alpha=alpha)
        assert read.sum() == (16 if alpha == "hole" else 64 * 64 - 16)


def test_a_label_map_is_read_by_its_index(mask: np.ndarray):
    """Palettes of label maps hold colours that mean nothing: here the background is the brightest."""
    labels = Image.fromarray(mask * np.uint8(3), "P")
    for third in ((10, 90, 20), (128, 128, 128)):
        labels.putpalette([250, 250, 250, 128, 0, 0, 0, 128, 0, *third])
        assert np.array_equal(load_mask(encoded(labels), (4, 6)), mask)


@pytest.mark.parametrize("more", [[], [128, 0, 0]])
def test_black_and_white_of_a_palette_are_that(mask: np.ndarray, more):
    """A mask that was saved with few colours."""
    greys = Image.fromarray((~mask).astype(np.uint8), "P")
    greys.putpalette([255, 255, 255, 0, 0, 0, *more])
    assert np.array_equal(load_mask(encoded(greys), (4, 6)), mask)


@pytest.mark.parametrize(("value", "text"), [(0, "nothing"), (1, "everything")])
def test_a_mask_of_one_value_warns(value, text):
    with pytest.warns(UserWarning, match=f"the mask lets {text} change"):
        load_mask(np.full((4, 4), value), (4, 4))


def test_a_mask_of_the_picture_on_its_side_says_why():
    with pytest.raises(ImageError, match=r"20 x 30 and the picture 30 x 20: .*EXIF.*turn the mask"):
        load_mask(np.zeros((30, 20), bool), (30, 20))


@pytest.mark.parametrize("how", ["JPEG", "scaled"])
def test_what_pictures_leave_of_black_and_white_is_black_and_white(how):
    mask = np.zeros((64, 64), np.uint8)
    mask[13:40, 20:50] = 255
    file = Image.fromarray(mask).resize((512, 512), 0).resize((64, 64), Image.Resampling.LANCZOS)
    picture = encoded(mask, "JPEG", quality=90) if how == "JPEG" else file
    read = load_mask(picture, (64, 64))
    assert np.array_equal(read > 0.5, mask > 0)
    assert np.isin(read, (0, 1)).mean() > 0.9
    assert load_mask(np.full((64, 64), 0.01), (64, 64)).min() > 0  # of an array: as it was given


def test_an_upright_mask_follows_its_tag(mask: np.ndarray):
    turned = Image.fromarray(np.rot90(mask.astype(np.uint8) * 255))
    tag = Image.Exif()
    tag[0x112] = 6
    assert np.array_equal(load_mask(encoded(turned, exif=tag.tobytes()), (4, 6)), mask)


# --- cells and pixels -----------------------------------------------------------------------------


def test_a_cell_is_as_strong_as_its_strongest_pixel():
    mask = np.zeros((7, 10), dtype=np.float32)
    mask[3, 4] = 0.5  # in the middle row of three: between the first and the second of two cells
    assert np.array_equal(touched(mask, (5, 2)), [[0, 0, 0.5, 0, 0], [0, 0, 0.5, 0, 0]])
    assert np.array_equal(touched(mask, (10, 7)), mask)


def test_pixels_are_those_of_their_cell():
    cells = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(enlarged(cells, (6, 4)), cells.repeat(2, axis=0).repeat(2, axis=1))
    assert enlarged(cells, (7, 5)).shape == (5, 7)
    assert np.array_equal(touched(enlarged(cells, (6, 4)), (3, 2)), cells)


@pytest.mark.parametrize(
    ("strength", "free"), [(0, 0), (0.004, 1), (0.25, 1), (64 / 255, 1), (0.4, 2), (0.9, 4), (1, 4)]
)
def test_strength_is_how_many_of_the_last_hops_are_free(strength, free):
    hops = by_hop(np.full((1, 1), strength, np.float32), 4)[:, 0, 0]
    assert np.array_equal(hops, [0.0] * (4 - free) + [1.0] * free)


def test_words_are_grown_by_a_cell_and_agree_with_the_mask():
    cells = np.zeros((2, 4, 5), dtype=np.float32)
    cells[0, 1, 1] = 1
    mask = np.full((8, 10), 0.5, dtype=np.float32)
    mask[:, 4:] = 0
    grown = for_targets(None, cells, 2, (10, 8))
    assert grown.shape == (2, 8, 10) and grown[0, :6, :6].all() and grown.sum() == 36
    assert np.array_equal(for_targets(mask, cells, 2, (10, 8)), grown * mask)
    assert np.array_equal(for_targets(mask, None, 2, (10, 8)), [mask, mask])


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.zeros((4, 4, 3), np.uint8), "1 channel, got shape"),
        (np.zeros(4, bool), "mask is"),
        (np.zeros((2, 4, 4, 1), bool), "batch of 2"),
        (np.full((4, 4), 2), "mask array holds"),
        (np.full((4, 4), -1), "mask array holds"),
        (np.full((4, 4), 1.5), "mask floats"),
        (np.full((4, 4), np.nan), "NaN"),
        ("no/such/mask.png", "no such file"),
        (".", "is a folder"),
        (3, "cannot read a mask"),
    ],
    ids=[
        "channels",
        "vector",
        "batch",
        "int",
        "negative",
        "range",
        "nan",
        "missing",
        "folder",
        "int-value",
    ],
)
def test_masks_that_are_refused(value, text: str):
    with pytest.raises(ImageError, match=text):
        load_mask(value, (4, 4))
