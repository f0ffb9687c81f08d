"""Masks that are made: of where words are, on the embedded model, and by a user's own function."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from icd_engine.engine import Engine
from icd_engine.errors import SettingsError
from icd_engine.results import EditRequest
from training.world.pairs import Pair, sample_pairs

CAT = "a cat sits on the mat"
DOG = "a dog sits on the mat"
WORDS = {"mask_from": "words"}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.from_pretrained("tiny", device="cpu", dtype="float32", runner="eager")


@pytest.fixture(scope="module")
def pair() -> Pair:
    return sample_pairs(1, seed=5, kinds=("color",))[0]


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum()


def changed(pair: Pair) -> np.ndarray:
    return np.abs(pair.picture.astype(int) - pair.truth).max(axis=-1) > 8


def test_the_words_that_differ_mask_what_changes(engine, pair):
    result = engine.edit(pair.picture, pair.source, pair.target, **WORDS)
    assert result.settings.paste_back and result.settings.mask_from == "words"
    mask = result.masks[0]
    assert mask.shape == (128, 128) and mask.dtype == np.float32
    # Grown by the ring of 4 pixels: of a disk of 30, by a quarter of its area.
    assert mask[changed(pair)].mean() > 0.97 and overlap(mask > 0, changed(pair)) > 0.6
    kept = mask == 0
    assert np.array_equal(np.asarray(result.image)[kept], pair.picture[kept])
    named = [next(iter({*one.split()} - {*other.split()})) for one, other in
             ((pair.source, pair.target), (pair.target, pair.source))]  # fmt: skip
    assert result.candidates  # its settings were chosen among several
    plain = engine.edit(pair.picture, pair.source, pair.target, auto=False, **WORDS)
    blend = engine.edit(pair.picture, pair.source, pair.target, blend=tuple(named), **WORDS)
    assert np.array_equal(blend.masks, plain.masks)


def test_a_mask_of_words_serves_as_a_mask(engine, pair):
    inversion = engine.invert(pair.picture, pair.source)
    found = inversion.edit(pair.target, **WORDS).masks[0]
    again = inversion.edit(pair.target, mask=found)
    assert np.array_equal(again.masks[0], found)
    both = inversion.edit(pair.target, mask=np.tri(128), **WORDS)
    assert not both.masks[0][np.tri(128) == 0].any()
    assert overlap(both.masks[0] > 0, (found > 0) & (np.tri(128) > 0)) > 0.9


def test_words_in_shared_passes_and_re_edits(engine):
    """What is taken of the source branch is the picture's own, whichever row it has."""
    words = WORDS | {"auto": False}
    pairs = sample_pairs(3, seed=8, kinds=("color", "shape"))
    requests = [EditRequest(one.picture, one.source, one.target, words) for one in pairs]
    for one, result in zip(pairs, engine.edit_many(requests), strict=True):
        inversion = engine.invert(one.picture, one.source)
        first = inversion.edit(one.target, **words)
        seen = inversion.edit(
            one.target, callback_on_step_end=lambda step, t, latents: None, **words
        )
        again = inversion.edit([one.target, one.source], **words)
        for other in (result.masks[0], again.masks[0], seen.masks[0]):
            assert overlap(other > 0, first.masks[0] > 0) > 0.99


def test_words_without_the_picture(engine, pair, tmp_path):
    kept = engine.load_inversion(engine.invert(pair.picture, pair.source).save(tmp_path / "i"))
    with pytest.warns(UserWarning, match="saved inversions do not carry"):
        result = kept.edit(pair.target, **WORDS)
    assert result.masks[0][changed(pair)].mean() > 0.9 and not result.settings.paste_back
    latents = kept.edit(pair.target, output_type="latent", paste_back=False, **WORDS)
    assert latents.masks.shape == (1, 128, 128)


def test_words_that_are_only_added(small_engine):
    picture = Image.new("RGB", (64, 48), "gray")
    result = small_engine.edit(picture, CAT, "a red cat sits on the mat", **WORDS)
    assert result.masks.shape == (1, 48, 64)


# --- a user's own function ------------------------------------------------------------------------


def test_a_function_makes_the_mask(small_engine):
    seen = []

    def segment(picture, words):
        seen.append((picture.size, picture.mode, words))
        return np.arange(48)[:, None] * np.ones(64) < 20

    own = Image.new("RGB", (64, 48), "gray")
    result = small_engine.edit(own, CAT, [DOG, "a bird sits on a mat"], mask_from=segment)
    assert seen == [((64, 48), "RGB", ("cat", "the"))]
    assert result.masks.shape == (2, 48, 64) and result.masks[:, :20].all()
    assert not result.masks[:, 20:].any() and result.settings.paste_back
    again = small_engine.edit(own, CAT, DOG, mask=result.settings.mask)
    assert np.array_equal(again.masks[0], result.masks[0])
    words = small_engine.edit(own, CAT, DOG, mask_from=segment, blend=("mat", "mat"))
    assert seen[-1][2] == ("mat",) and words.masks.shape == (1, 48, 64)
    small_engine.edit(own, CAT, "a red cat sits on the mat", mask_from=segment)
    assert seen[-1][2] == ("red",)


def test_a_search_asks_a_function_once(small_engine):
    calls = []
    inversion = small_engine.invert(Image.new("RGB", (64, 64), "gray"), CAT)
    segment = lambda picture, words: calls.append(words) or np.eye(64)  # noqa: E731
    inversion.search(DOG, edits=3, mask_from=segment)
    assert calls == [("cat",)]


@pytest.mark.parametrize(
    "made", [None, "no/such.png", np.ones((3, 3, 3)), np.full((64, 64), 2.0), np.ones((9, 64))]
)
def test_what_is_no_mask_is_one_error(small_engine, made):
    with pytest.raises(SettingsError, match="what mask_from returned is no mask"):
        small_engine.edit(
            Image.new("RGB", (64, 64)), CAT, DOG, mask_from=lambda picture, words: made
        )


def test_there_must_be_words_and_a_picture(small_engine, tmp_path):
    inversion = small_engine.invert(Image.new("RGB", (64, 64)), CAT)
    for chosen in ("words", lambda picture, words: np.ones((64, 64))):
        with pytest.raises(SettingsError, match="mask_from needs words that differ"):
            inversion.edit(CAT, mask_from=chosen)
    kept = small_engine.load_inversion(inversion.save(tmp_path / "i.safetensors"))
    with pytest.raises(SettingsError, match="mask_from needs the picture"):
        kept.edit(DOG, mask_from=lambda picture, words: np.ones((64, 64)))
    with pytest.raises(ZeroDivisionError):  # a user's own error is the user's
        inversion.edit(DOG, mask_from=lambda picture, words: 1 / 0)
