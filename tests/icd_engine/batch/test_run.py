"""Batches on Ray Data: every row ends as a picture or as an error row, whatever dies on the way."""

import json
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from icd_engine.batch.manifest import row_seed
from icd_engine.batch.run import Pool, plan_pool
from icd_engine.engine import Engine
from icd_engine.errors import SettingsError

SOURCE, TARGET = "a cat sits on the mat", "a dog sits on the mat"


@pytest.fixture
def runs(monkeypatch):
    """What starts `icd batch`, kills it and compares what it leaves."""
    pytest.importorskip("ray.data")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    from benchmarks import batch

    return batch


def start(runs, manifest: Path, out: Path, model: Path) -> psutil.Popen:
    return runs.start(manifest, out, model=model, batch=2, device="cpu", runner="eager")


def test_rows_become_pictures_or_errors(runs, tmp_path, small_bundle):
    manifest = runs.write_manifest(tmp_path, 5, {2}, SOURCE, TARGET)
    assert start(runs, manifest, tmp_path / "out", small_bundle).wait(300) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["rows"], summary["pictures"], summary["errors"]) == (5, 4, {"ImageError": 1})
    rows = runs.lines(tmp_path / "out")
    assert [row.get("picture") for row in rows] == [
        "row0.png",
        "row1.png",
        None,
        "row3.png",
        "row4.png",
    ]
    assert rows[2]["error"] == "ImageError" and "\n" not in rows[2]["reason"]

    engine = Engine.from_pretrained(small_bundle, device="cpu", dtype="float32", runner="eager")
    # The last batch has one row
    alone = engine.edit(tmp_path / "4.png", SOURCE, TARGET, seed=row_seed("row4", 0))
    assert np.array_equal(
        np.asarray(Image.open(tmp_path / "out" / "row4.png")), np.asarray(alone.image)
    )


def test_a_killed_run_goes_on_and_gives_the_same_pictures(runs, tmp_path, small_bundle):
    manifest = runs.write_manifest(tmp_path, 12, {7}, SOURCE, TARGET)
    assert start(runs, manifest, tmp_path / "whole", small_bundle).wait(300) == 0
    process = start(runs, manifest, tmp_path / "killed", small_bundle)
    runs.wait_for(lambda: runs.done(tmp_path / "killed") >= 2)
    runs.kill(process)
    assert start(runs, manifest, tmp_path / "killed", small_bundle).wait(300) == 0
    runs.check_same(tmp_path / "whole", tmp_path / "killed", rows=12, broken=1)


@pytest.mark.long
def test_five_hundred_pictures_a_killed_worker_and_a_killed_driver(runs):
    """On the embedded model, about five minutes on two cores."""
    result = runs.measure_batch(
        model="tiny", runner="eager", device="cpu", dtype="float32", pictures=500
    )
    print(result)
    assert result["pictures"] == 495 and result["errors"] == {"ImageError": 5}
    assert 80 <= result["worker_killed_at"] < result["driver_killed_at"] < 500


def test_what_a_comparison_of_runs_must_not_miss(runs, tmp_path):
    from benchmarks.checks import Refused

    for out in ("whole", "other"):
        (tmp_path / out).mkdir()
        (tmp_path / out / "a.png").write_bytes(b"picture")
        rows = [{"row": 0, "picture": "a.png"}, {"row": 1, "error": "ImageError"}]
        (tmp_path / out / "results.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows)
        )
    folders = (tmp_path / "whole", tmp_path / "other")
    runs.check_same(*folders, rows=2, broken=1)
    (tmp_path / "other" / "a.png").write_bytes(b"another")
    with pytest.raises(Refused, match="pictures differ"):
        runs.check_same(*folders, rows=2, broken=1)
    with pytest.raises(Refused, match="lost or doubled"):
        runs.check_same(*folders, rows=3, broken=1)


# --- what each editor takes of the machines -------------------------------------------------------


@pytest.mark.parametrize(
    "nodes, device, actors, threads, pool",
    [
        ([{"CPU": 2}], "auto", None, None, Pool(1, 1, 0)),
        ([{"CPU": 16}], "cpu", 3, None, Pool(3, 5, 0)),
        ([{"CPU": 16, "GPU": 2}], "auto", None, None, Pool(2, 1, 1)),
        ([{"CPU": 16, "GPU": 2}], "cpu", None, 4, Pool(1, 4, 0)),
        ([{"CPU": 8}, {"CPU": 8}], "auto", None, None, Pool(2, 7, 0)),
        ([{"CPU": 1}], "auto", None, None, Pool(1, 0.5, 0)),
    ],
)
def test_editors_leave_a_cpu_to_read_with(nodes, device, actors, threads, pool):
    assert plan_pool(nodes, device, actors, threads) == pool


def test_more_than_there_is_is_refused():
    with pytest.raises(SettingsError, match="leave none of 4"):
        plan_pool([{"CPU": 4}], "cpu", 2, 2)
    with pytest.raises(SettingsError, match="need a GPU each"):
        plan_pool([{"CPU": 8, "GPU": 1}], "auto", 2, None)
