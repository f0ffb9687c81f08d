"""One visitor of the page, without a page: what is kept, what is written, and how things go
wrong."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from icd_engine.errors import ImageError, PromptError
from icd_engine.page.fields import Form
from icd_engine.page.session import Stopped, Visit
from tests.icd_engine.page.test_fields import FORM, OTHER, SOURCE, TARGET

EDITED = b"digitalsourcetype/compositeWithTrainedAlgorithmicMedia"


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    )


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def quiet(done: int, total: int) -> None: ...


@pytest.fixture
def visit(tmp_path) -> Visit:
    visit = Visit(tmp_path)
    visit.open(picture())
    return visit


def calls(visit: Visit, engine, form: Form = FORM) -> int:
    """Network calls of an edit: 4 where the inversion was kept, 8 where it was made."""
    return int(visit.edit(engine, form, quiet).note.split()[0])


# --- edits ----------------------------------------------------------------------------------------


def test_an_edit_is_the_engines(small_engine, visit):
    visit.mask = np.tri(128, dtype=np.float32)
    form = replace(FORM, targets=f"{TARGET}\n{OTHER}", paste_back=True)
    told = []
    shown = visit.edit(small_engine, form, lambda done, total: told.append((done, total)))
    settings = form.settings() | {"mask": visit.mask, "paste_back": True}
    expected = small_engine.edit(picture(), SOURCE, [TARGET, OTHER], seed=3, **settings)
    for (path, _), image in zip(shown.edited, expected.images, strict=True):
        assert np.array_equal(pixels(path), np.asarray(image))
    assert [(path.name, news) for path, news in shown.edited] == [
        ("edited_1.png", "dog"),
        ("edited_2.png", "red bird"),
    ]
    assert told == [(done, 8) for done in range(1, 9)]


def test_files_say_what_a_model_made(small_engine, visit):
    shown = visit.edit(small_engine, FORM, quiet)
    [(edited, _)] = shown.edited
    assert edited.name == "edited.png" and EDITED in edited.read_bytes()
    assert b"digitalsourcetype" not in shown.before.read_bytes()
    assert np.array_equal(pixels(shown.before), np.asarray(picture()))


def test_an_inversion_is_made_once_for_picture_source_and_seed(small_engine, visit):
    assert calls(visit, small_engine) == 8
    changed = [
        {"guidance_scale": 9.0},
        {"targets": OTHER},
        {"blend_source": "cat", "blend_target": "dog"},
    ]
    assert [calls(visit, small_engine, replace(FORM, **fields)) for fields in changed] == [4, 4, 4]
    assert calls(visit, small_engine, replace(FORM, source="the cat sits on the mat")) == 8
    assert calls(visit, small_engine, replace(FORM, seed=4)) == 8
    visit.open(picture())
    assert calls(visit, small_engine, replace(FORM, seed=4)) == 8


def test_an_empty_seed_is_the_models(small_engine, visit):
    assert calls(visit, small_engine, replace(FORM, seed=None)) == 8
    assert calls(visit, small_engine, replace(FORM, seed=small_engine.default_settings.seed)) == 4


def test_pasting_back_waits_for_words_or_a_mask(small_engine, visit):
    plain = visit.edit(small_engine, FORM, quiet).edited[0][0]
    ticked = visit.edit(small_engine, replace(FORM, paste_back=True), quiet).edited[0][0]
    # Without the source row: another rounding
    assert np.abs(pixels(ticked) - pixels(plain)).max() <= 1


def test_automatic_settings_fill_in_the_form(small_engine, visit):
    told = []
    form = visit.choose_settings(small_engine, FORM, lambda done, total: told.append((done, total)))
    changed = {name for name in vars(FORM) if getattr(form, name) != getattr(FORM, name)}
    assert changed <= {"cross_replace", "self_replace", "blend_source", "blend_target"}
    assert told == [(n, 8) for n in range(1, 9)]
    assert calls(visit, small_engine, form) == 4


def test_a_mask_is_new_or_not(visit):
    layers = np.zeros((1, 4, 6, 4), dtype=np.uint8)
    assert not visit.paint(layers)
    layers[0, 1] = 255
    assert [visit.paint(layers), visit.paint(layers), visit.paint([]), visit.paint([])] == [
        True,
        False,
        True,
        False,
    ]


# --- what goes wrong ------------------------------------------------------------------------------


def test_without_a_picture(small_engine, tmp_path):
    for use in (Visit(tmp_path).edit, Visit(tmp_path).choose_settings):
        with pytest.raises(ImageError, match="choose one"):
            use(small_engine, FORM, quiet)


def test_a_wrong_picture_leaves_the_right_one(small_engine, visit):
    first = visit.edit(small_engine, FORM, quiet)
    with pytest.raises(ImageError):
        visit.open(b"no picture")
    assert visit.shown is first and calls(visit, small_engine) == 4


def test_an_absent_word_is_named_and_the_next_edit_works(small_engine, visit):
    with pytest.raises(PromptError, match="horse"):
        visit.edit(small_engine, replace(FORM, blend_source="horse", blend_target="dog"), quiet)
    assert calls(visit, small_engine) == 8


@pytest.mark.parametrize("hop", [1, 4, 8])
def test_stopping_leaves_everything_as_it_was(small_engine, visit, hop):
    first = visit.edit(small_engine, FORM, quiet)
    before = pixels(first.edited[0][0])

    def stop(done: int, total: int) -> None:
        if done == hop:
            visit.stop()

    with pytest.raises(Stopped):
        visit.edit(small_engine, replace(FORM, seed=9), stop)
    assert visit.shown is first and np.array_equal(pixels(first.edited[0][0]), before)
    assert calls(visit, small_engine) == 4


def test_automatic_settings_stop(small_engine, visit):
    told = []

    def stop(done: int, total: int) -> None:
        told.append(done)
        if done == 3:
            visit.stop()

    with pytest.raises(Stopped):
        visit.choose_settings(small_engine, FORM, stop)
    assert told[-1] == 3


def test_opening_another_picture_stops_the_edit(small_engine, visit):
    def open_another(done: int, total: int) -> None:
        if done == 8:
            visit.open(picture(1))

    with pytest.raises(Stopped):
        visit.edit(small_engine, FORM, open_another)
    assert visit.shown is None
    assert np.array_equal(
        pixels(visit.edit(small_engine, FORM, quiet).before), np.asarray(picture(1))
    )


# --- files ----------------------------------------------------------------------------------------


def test_files_do_not_pile_up(small_engine, visit, tmp_path):
    edits = [
        visit.edit(small_engine, replace(FORM, guidance_scale=float(w)), quiet) for w in range(4)
    ]
    assert [shown.edited[0][0].exists() for shown in edits] == [False, False, True, True]
    visit.open(picture(1))
    assert [path.name for path in tmp_path.rglob("*.png")] == ["picture.png"]


def test_files_go_with_the_visit(tmp_path):
    visit = Visit(tmp_path)
    visit.open(picture())
    assert any(tmp_path.iterdir())
    del visit
    gc.collect()
    assert not any(tmp_path.iterdir())
