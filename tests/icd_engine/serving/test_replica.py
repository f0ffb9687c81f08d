"""What a replica makes of jobs: the engine's own pictures, and one job's mistake is that job's
alone."""

from __future__ import annotations

import base64
import io
import pickle

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("cachetools")

from icd_engine.errors import PromptError, SettingsError
from icd_engine.placement import Placement
from icd_engine.serving.jobs import EditJob, EditKeptJob, InvertJob, Kept
from icd_engine.serving.limits import ApiError, Limits
from icd_engine.serving.replica import JobEditor, written
from tests.icd_engine.serving.conftest import SOURCE, TARGET, png

CPU = Placement(device="cpu", dtype="float32", runner="eager")


@pytest.fixture(scope="module")
def editor(small_bundle) -> JobEditor:
    return JobEditor(str(small_bundle), CPU, Limits(pixels=10_000))


def edit(**changes) -> EditJob:
    return EditJob(
        **{"image": png(), "source": SOURCE, "target": TARGET, "settings": {"seed": 5}, **changes}
    )


def done(editor: JobEditor, *jobs):
    return editor.run([editor.read(job) for job in jobs])


def pixels(results) -> list[np.ndarray]:
    """Of the files that are sent."""
    files = written(results).files
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(file)))) for file in files]


def kept(editor: JobEditor, image: bytes) -> Kept:
    (result,) = done(editor, InvertJob(image=image, source=SOURCE, settings={"seed": 5}))
    return pickle.loads(pickle.dumps(result))  # as it travels


def test_an_edit_is_the_engines_bit_for_bit(editor, small_engine):
    (results,) = done(editor, edit(image=png(80, 60)))
    expected = small_engine.edit(png(80, 60), SOURCE, TARGET, seed=5)
    (sent,) = pixels(results)
    assert np.array_equal(sent, np.asarray(expected.image)) and sent.shape == (60, 80, 3)
    assert written(results).settings == [expected.settings.as_json()]
    assert b"compositeWithTrainedAlgorithmicMedia" in base64.b64decode(written(results).files[0])


def test_several_pictures_have_seeds_that_follow_each_other(editor, small_engine):
    (results,) = done(editor, edit(count=3))
    assert [result.settings.seed for result in results] == [5, 6, 7]
    for result in results:
        alone = small_engine.edit(png(), SOURCE, TARGET, seed=result.settings.seed)
        # Another batch size rounds in another way: 1e-4 of latents of unit size.
        np.testing.assert_allclose(np.asarray(result.latents), np.asarray(alone.latents), atol=1e-3)


def test_a_batch_keeps_its_order_whatever_is_in_it(editor, small_engine):
    first = kept(editor, png())
    jobs = [
        edit(size=(128, 64)),
        InvertJob(image=png(seed=2), source=SOURCE, settings={}),
        edit(image=png(80, 60)),
        EditKeptJob(key="a", kept=first, image=png(), target=TARGET, settings={}),
        edit(size=(128, 64), target="a fox sits on the mat"),
    ]
    wide, inverted, own, further, other = done(editor, *jobs)
    assert [pixels(one)[0].shape[1::-1] for one in (wide, own, further, other)] == [
        (128, 64),
        (80, 60),
        (64, 64),
        (128, 64),
    ]
    assert isinstance(inverted, Kept) and inverted.latents.shape == (1, 4, 8, 8)
    expected = small_engine.edit(png(), SOURCE, "a fox sits on the mat", seed=5, size=(128, 64))
    np.testing.assert_allclose(
        np.asarray(other[0].latents), np.asarray(expected.latents), atol=1e-3
    )


def test_a_wrong_word_is_the_mistake_of_its_own_job(editor, small_engine):
    right = [edit(settings={"seed": i}) for i in range(4)]
    results = done(editor, *right[:2], edit(settings={"blend": [["tree"], ["dog"]]}), *right[2:])
    assert isinstance(results[2], PromptError) and "tree" in str(results[2])
    assert ApiError.of_input(results[2]).problem[:2] == (400, "invalid_prompt")
    for seed, result in enumerate([*results[:2], *results[3:]]):
        expected = small_engine.edit(png(), SOURCE, TARGET, seed=seed)
        np.testing.assert_allclose(
            np.asarray(result[0].latents), np.asarray(expected.latents), atol=1e-3
        )


def test_what_memory_does_not_hold_is_halved(editor, monkeypatch):
    engine, sizes = editor.engine, []
    whole = engine.edit_many

    def short_of_memory(requests, **options):
        sizes.append(len(requests))
        if len(requests) > 2:
            raise RuntimeError("out of memory")
        return whole(requests, **options)

    monkeypatch.setattr(engine, "edit_many", short_of_memory)
    results = done(editor, *(edit(settings={"seed": seed}) for seed in range(4)))
    assert sizes == [4, 2, 2] and [result[0].settings.seed for result in results] == [0, 1, 2, 3]


def test_an_inversion_can_be_edited_by_a_replica_that_did_not_make_it(
    editor, small_bundle, small_engine
):
    image = png(80, 60)
    settings = {"blend": [["cat"], ["dog"]], "paste_back": True}
    job = EditKeptJob(
        key="a", kept=kept(editor, image), image=image, target=TARGET, settings=settings
    )
    other = JobEditor(str(small_bundle), CPU, Limits())
    inversion = small_engine.invert(image, SOURCE, seed=5)
    for _ in range(2):  # the second edit finds the source branch of the first
        (results,) = done(other, job)
        assert np.array_equal(
            pixels(results)[0], np.asarray(inversion.edit(TARGET, **settings).image)
        )


def test_masks_are_white_or_transparent_where_the_picture_may_change(editor):
    white = np.zeros((64, 64), np.uint8)
    white[:, :32] = 255
    ours, file = io.BytesIO(), io.BytesIO()
    Image.fromarray(white).save(ours, "PNG")
    hole = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    hole.putalpha(Image.fromarray(255 - white))
    hole.save(file, "PNG")
    opaque = io.BytesIO()
    Image.fromarray(white).convert("RGBA").save(opaque, "PNG")
    masks = [mask.getvalue() for mask in (ours, file, opaque)]
    jobs = [edit(settings={"seed": 5, "mask": mask, "paste_back": True}) for mask in masks]
    first, second, third = (pixels(done(editor, job)[0])[0] for job in jobs)
    assert np.array_equal(first, second) and np.array_equal(first, third)
    picture = np.asarray(Image.open(io.BytesIO(png())))
    assert np.array_equal(first[:, 48:], picture[:, 48:]) and not np.array_equal(
        first[:, :16], picture[:, :16]
    )


@pytest.mark.parametrize(
    ("changes", "param", "message"),
    [
        ({"image": b""}, "image", "the picture file is empty"),
        ({"image": b"<svg/>"}, "image", "the picture is an SVG drawing: save it as a PNG"),
        ({"image": png()[:-20]}, "image", "the picture is damaged or cut short"),
        ({"image": png(101, 100)}, "image", "the picture has more than 0.01 megapixels"),
        (
            {"settings": {"mask": b"text"}},
            "mask",
            "not a PNG, JPEG, WEBP, AVIF, HEIC, TIFF, GIF or BMP mask, or a damaged one",
        ),
        (
            {"settings": {"mask": png(100, 101)}},
            "mask",
            "the mask has more than 0.01 megapixels",
        ),
        (
            {"size": (256, 128)},
            "size",
            "size has more than 4 times the pixels that the model was made for: 64x64",
        ),
    ],
)
def test_files_and_sizes_are_checked_before_a_batch(editor, changes, param, message):
    with pytest.raises(ApiError) as caught:
        editor.read(edit(**changes))
    assert (caught.value.problem.status, caught.value.param, caught.value.message) == (
        400,
        param,
        message,
    )
    assert pickle.loads(pickle.dumps(caught.value)).body("a") == caught.value.body("a")


@pytest.mark.parametrize(
    "job",
    [edit(size=(65, 64)), InvertJob(image=png(), source=" ", settings={})],
    ids=["size", "prompt"],
)
def test_what_the_engine_refuses_is_a_value(editor, job):
    (result,) = done(editor, job)
    assert isinstance(result, SettingsError | PromptError)


def test_a_warm_editor_has_edited(editor, monkeypatch):
    calls = []
    monkeypatch.setattr(editor.engine, "edit_many", lambda requests: calls.append(len(requests)))
    editor.warm()
    assert calls == [1]
