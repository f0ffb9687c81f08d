"""A worker's part of a batch: pictures and lines of the log, and batches that kill are given up."""

import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from icd_engine.batch import worker
from icd_engine.batch.manifest import Row
from icd_engine.batch.worker import MARKS, MOST_ATTEMPTS, BatchEditor, Failure, failure
from icd_engine.engine import Engine
from icd_engine.errors import ImageError
from icd_engine.placement import PLAIN

SOURCE, TARGET = "a cat sits on the mat", "a dog sits on the mat"


def test_an_error_keeps_its_name_and_is_one_line():
    assert failure(ImageError("no such\nfile")) == Failure("ImageError", "no such file")
    assert failure(MemoryError("too\nmuch")) == Failure("RunnerError", "MemoryError: too much")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
@pytest.mark.parametrize("name", ["picture", "mask"])
def test_a_pipe_does_not_hold_up_the_run(tmp_path, name):
    """Nobody writes to it: whoever opened it would wait without end."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    given = {"picture": str(tmp_path / "a.png"), "mask": None} | {name: str(pipe)}
    settings = json.dumps({"mask": given["mask"]})
    found = worker._picture(Row("a", str(given["picture"]), SOURCE, TARGET, settings, 5))
    assert found == Failure(
        "ImageError", f"{str(pipe)!r} is no file: a batch reads no pipes and devices"
    )


@pytest.fixture
def batch(tmp_path) -> dict[str, object]:
    (tmp_path / MARKS).mkdir()
    picture = Image.new("RGB", (64, 64), "white")
    rows = [Row(name, f"{name}.png", SOURCE, TARGET, "{}", 5) for name in ("a", "b")]
    return {
        "first": 6,
        "loaded": pickle.dumps([(rows[0], picture), (rows[1], Failure("ImageError", "damaged"))]),
    }


@pytest.fixture
def editor(tmp_path, monkeypatch, small_engine) -> BatchEditor:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(Engine, "load", lambda model, placement: small_engine)
    return BatchEditor(tmp_path, "small", PLAIN, threads=1)


def test_a_batch_becomes_pictures_and_lines(tmp_path, editor, batch, small_engine):
    answer = editor(batch)
    assert json.loads(answer["outcomes"]) == [
        {"row": 6, "id": "a", "seed": 5, "picture": "a.png"},
        {"row": 7, "id": "b", "seed": 5, "error": "ImageError", "reason": "damaged"},
    ]
    assert (answer["first"], json.loads(answer["stop"])) == (6, None)
    expected = small_engine.edit(Image.new("RGB", (64, 64), "white"), SOURCE, TARGET, seed=5).image
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), np.asarray(expected))
    assert not (tmp_path / "b.png").exists()


def test_pictures_say_that_a_model_made_them_unless_told_not_to(tmp_path, editor, batch):
    for provenance in (True, False):
        editor._provenance = provenance
        editor(batch)
        assert (
            b"compositeWithTrainedAlgorithmicMedia" in (tmp_path / "a.png").read_bytes()
        ) is provenance


def test_a_batch_that_was_begun_too_often_is_given_up(tmp_path, editor, batch):
    answers = [json.loads(editor(batch)["outcomes"]) for _ in range(MOST_ATTEMPTS + 1)]
    assert [len(outcomes) for outcomes in answers] == [2] * MOST_ATTEMPTS + [0]


def test_what_would_meet_every_batch_stops_the_run(tmp_path, editor, batch, monkeypatch):
    def full(picture, path, **marks):
        raise ImageError(f"cannot write {str(path)!r}: No space left on device")

    monkeypatch.setattr(worker, "save_image", full)
    name, reason = json.loads(editor(batch)["stop"])
    assert name == "ImageError" and reason.endswith("No space left on device")
    (tmp_path / MARKS / "6-2").unlink()
    (tmp_path / MARKS).rmdir()
    name, reason = json.loads(editor(batch)["stop"])
    assert name == "SettingsError" and "cannot be written to from" in reason
