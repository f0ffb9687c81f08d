"""Previews of an edit under way, and pictures that say by their transparency where they are edited."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("cachetools")

from icd_engine.placement import Placement
from icd_engine.serving.holes import HOLE, without_hole
from icd_engine.serving.jobs import EditJob, Preview, Written
from icd_engine.serving.limits import ApiError, Limits
from icd_engine.serving.previews import Previews
from icd_engine.serving.replica import JobEditor, written
from tests.icd_engine.serving.conftest import SOURCE, TARGET, png

CPU = Placement(device="cpu", dtype="float32", runner="eager")


@pytest.fixture(scope="module")
def editor(small_bundle) -> JobEditor:
    return JobEditor(str(small_bundle), CPU, Limits())


def shown(editor: JobEditor, **given) -> tuple[list[Preview], list]:
    about = {"image": png(80, 60), "source": SOURCE, "target": TARGET, "settings": {"seed": 5}}
    job = editor.read(EditJob(**{**about, **given}))
    found: list[Preview] = []
    return found, editor.run_shown(job, found.append)


@pytest.mark.parametrize(
    "settings",
    [{}, {"anchor": 0.0}, {"auto": True}, {"blend": [["cat"], ["dog"]]}, {"control": "none"}],
    ids=str,
)
def test_an_edit_that_is_shown_is_the_same(editor, small_engine, settings):
    previews, results = shown(editor, settings={"seed": 5, **settings}, previews=3)
    expected = small_engine.edit(png(80, 60), SOURCE, TARGET, seed=5, **settings)
    assert np.array_equal(np.asarray(results[0].image), np.asarray(expected.image))
    assert [one.number for one in previews] == [0, 1, 2]
    assert {one.size for one in previews} == {(80, 60)}


@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_last_ones_are_shown(editor, count):
    previews, _ = shown(editor, previews=count)
    assert [one.number for one in previews] == list(range(count))


def test_a_preview_is_the_edit_without_its_noise(small_engine):
    """x_0 of each hop by the definition, and after hops that change nothing more, the edit itself."""
    model = small_engine.model
    seen: list[Image.Image] = []
    watcher = Previews(small_engine, 0, 3, (64, 64), lambda _, picture: seen.append(picture))
    rng = np.random.default_rng(0)
    clean, noise = (rng.standard_normal((1, 4, 8, 8)).astype(np.float32) for _ in range(2))
    schedule = model.schedule
    for hop in model.encode_hops:
        watcher.watch(hop.s, model.runner.tensor(noise))
    first = model.decode_hops[0].t
    at = {hop.s: (schedule.a(hop.s), schedule.sigma(hop.s)) for hop in model.decode_hops[:-1]}
    at |= {first: (schedule.a(first), schedule.sigma(first)), 0: (1.0, 0.0)}
    watcher.watch(first, model.runner.tensor(at[first][0] * clean + at[first][1] * noise))
    for hop in model.decode_hops:
        a, sigma = at[hop.s]
        watcher.watch(hop.s, model.runner.tensor(a * clean + sigma * noise))
    (expected,) = small_engine.to_pictures(model.runner.tensor(clean))
    assert len(seen) == 3
    for picture in seen:
        difference = np.asarray(picture).astype(int) - np.asarray(expected)
        assert np.abs(difference).max() <= 1


def test_what_show_raises_ends_the_edit(editor):
    job = editor.read(EditJob(image=png(), source=SOURCE, target=TARGET, settings={}, previews=3))

    def stop(_: Preview) -> None:
        raise KeyError("nobody listens")

    with pytest.raises(KeyError):
        editor.run_shown(job, stop)


@pytest.mark.parametrize("name", ["png", "jpeg", "webp"])
def test_files_are_written_as_asked(editor, name):
    job = editor.read(
        EditJob(image=png(), source=SOURCE, target=TARGET, settings={}, written=Written(name, 60))
    )
    made = written(editor.run([job])[0], job)
    assert Image.open(io.BytesIO(base64.b64decode(made.files[0]))).format == name.upper()
    assert (made.size, made.opaque) == ((64, 64), True)


def test_a_cut_prompt_is_told_and_an_empty_one_refused(editor):
    about = {"image": png(), "source": SOURCE, "settings": {}}
    job = editor.read(EditJob(target="a dog " * 90, **about))
    assert len(job.told) == 1 and "longer than 77 tokens, this part is cut" in job.told[0]
    with pytest.raises(ApiError, match="the target prompt is empty"):
        editor.read(EditJob(target=" ", **about))


# --- transparency as a mask -----------------------------------------------------------------------


def picture_with_hole(hidden: int | None) -> bytes:
    """64x64, its left half transparent; under it the picture itself, or one grey."""
    rgba = np.dstack([np.asarray(Image.open(io.BytesIO(png()))), np.full((64, 64), 255, np.uint8)])
    rgba[:, :32, 3] = 0
    if hidden is not None:
        rgba[:, :32, :3] = hidden
    file = io.BytesIO()
    Image.fromarray(rgba).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("hidden", [None, 0, 255])
def test_a_transparent_picture_is_edited_there(editor, hidden):
    file = picture_with_hole(hidden)
    job = editor.read(EditJob(image=file, source=SOURCE, target=TARGET, settings={}))
    assert job.told == (HOLE,) and job.image.mode == "RGB"
    own = np.asarray(Image.open(io.BytesIO(png())))
    seen = np.asarray(job.image)
    assert np.array_equal(seen[:, 32:], own[:, 32:])
    # What the file holds under its transparency is shown where that is a picture
    assert np.array_equal(seen[:, :32], own[:, :32]) == (hidden is None)
    (result,) = editor.run([job])[0]
    edit = np.asarray(result.image)
    assert edit.shape == (64, 64, 3) and np.array_equal(edit[:, 36:], own[:, 36:])
    assert not np.array_equal(edit[:, :28], seen[:, :28])


@pytest.mark.parametrize("settings", [{"keep_alpha": True}, {"mask": png(mode="L")}], ids=str)
def test_its_transparency_is_its_own_where_the_client_says_so(editor, settings):
    file = picture_with_hole(None)
    job = editor.read(EditJob(image=file, source=SOURCE, target=TARGET, settings=settings))
    assert job.image.mode == "RGBA" and job.told == ()


def test_a_stray_transparent_pixel_is_no_hole():
    rgba = np.full((64, 64, 4), 255, np.uint8)
    rgba[0, :5, 3] = 0
    picture = Image.fromarray(rgba)
    assert without_hole(b"", picture) == (picture, None)
