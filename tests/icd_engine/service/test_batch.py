"""Batches on Ray Data: every row ends as a picture or as an error row, whatever dies on the way."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icd_engine.engine import Engine
from icd_engine.errors import SettingsError
from icd_engine.service.batch import Pool, plan_pool
from icd_engine.service.manifest import row_seed

ROOT = Path(__file__).parents[3]
SOURCE, TARGET = "a cat sits on the mat", "a dog sits on the mat"
RUN = "import sys; from icd_engine.cli import main; sys.exit(main())"


def write_manifest(folder: Path, rows: int, broken: set[int], side: int = 64) -> Path:
    rng = np.random.default_rng(0)
    with (folder / "edits.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "picture", "source", "target"])
        for i in range(rows):
            small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            small.resize((side, side)).save(folder / f"{i}.png")
            if i in broken:
                (folder / f"{i}.png").write_bytes((folder / f"{i}.png").read_bytes()[:60])
            writer.writerow([f"row{i}", f"{i}.png", SOURCE, TARGET])
    return folder / "edits.csv"


def start(manifest: Path, out: Path, model: Path | str, batch: int = 2) -> subprocess.Popen:
    # A group of its own, so that nothing of a killed run is left to a later one.
    arguments = ["batch", str(manifest), "--out", str(out), "--model", str(model), "--batch", str(batch)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    options = ["--device", "cpu", "--runner", "eager", "--quiet"]
    return subprocess.Popen([sys.executable, "-c", RUN, *arguments, *options], env=env, start_new_session=True)


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def count(out: Path) -> int:
    """Of whole lines, while a run is writing."""
    path = out / "results.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(condition, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the run does not get on"
        time.sleep(0.05)


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to the driver, and to Ray's processes that it started: it cannot stop them any more."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def ray():
    pytest.importorskip("ray")
    pytest.importorskip("pyarrow")


def test_rows_become_pictures_or_errors(ray, tmp_path, small_bundle):
    manifest = write_manifest(tmp_path, 5, broken={2})
    assert start(manifest, tmp_path / "out", small_bundle).wait(300) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["rows"], summary["pictures"], summary["errors"]) == (5, 4, {"ImageError": 1})
    rows = sorted(lines(tmp_path / "out"), key=lambda line: line["row"])
    assert [row.get("picture") for row in rows] == ["row0.png", "row1.png", None, "row3.png", "row4.png"]
    assert rows[2]["error"] == "ImageError" and "\n" not in rows[2]["reason"]

    engine = Engine.from_pretrained(small_bundle, device="cpu", dtype="float32", runner="eager")
    alone = engine.edit(tmp_path / "4.png", SOURCE, TARGET, seed=row_seed("row4", 0))  # the last batch has one row
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "row4.png")), np.asarray(alone.image))


def test_a_killed_run_goes_on_and_gives_the_same_pictures(ray, tmp_path, small_bundle):
    manifest = write_manifest(tmp_path, 12, broken={7})
    assert start(manifest, tmp_path / "whole", small_bundle).wait(300) == 0
    process = start(manifest, tmp_path / "killed", small_bundle)
    wait_for(lambda: count(tmp_path / "killed") >= 2)
    kill(process)
    assert start(manifest, tmp_path / "killed", small_bundle).wait(300) == 0
    same_outcome(tmp_path / "whole", tmp_path / "killed", rows=12, broken=1)


def same_outcome(whole: Path, killed: Path, rows: int, broken: int) -> None:
    one, other = (sorted(lines(out), key=lambda line: line["row"]) for out in (whole, killed))
    assert one == other and [line["row"] for line in one] == list(range(rows))  # none lost, none doubled
    pictures = sorted(path.name for path in whole.glob("*.png"))
    assert len(pictures) == rows - broken == sum("picture" in line for line in one)
    assert pictures == sorted(path.name for path in killed.glob("*.png"))
    for name in pictures:
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name


@pytest.mark.long
def test_five_hundred_pictures_a_killed_worker_and_a_killed_driver(ray, tmp_path):
    """On the embedded model, about ten minutes on two cores."""
    broken = {3, 99, 250, 251, 499}
    manifest = write_manifest(tmp_path, 500, broken, side=128)
    assert start(manifest, tmp_path / "whole", "tiny", batch=8).wait(900) == 0
    process = start(manifest, tmp_path / "killed", "tiny", batch=8)
    wait_for(lambda: count(tmp_path / "killed") >= 80)
    (worker,) = editors(process)
    os.kill(worker, signal.SIGKILL)
    reached = count(tmp_path / "killed")
    wait_for(lambda: count(tmp_path / "killed") >= reached + 40)  # another took over
    kill(process)
    assert count(tmp_path / "killed") < 500
    assert start(manifest, tmp_path / "killed", "tiny", batch=8).wait(900) == 0
    same_outcome(tmp_path / "whole", tmp_path / "killed", rows=500, broken=5)
    summary = json.loads((tmp_path / "killed" / "summary.json").read_text())
    assert summary["pictures"] == 495 and summary["errors"] == {"ImageError": 5} and summary["resumed"] >= 120


def editors(process: subprocess.Popen) -> list[int]:
    """Process numbers of the actors that edit, of this run alone."""
    import psutil

    below = psutil.Process(process.pid).children(recursive=True)
    return [one.pid for one in below if "Editor" in " ".join(one.cmdline()) or "MapWorker" in " ".join(one.cmdline())]


# --- what each editor takes of the machines ----------------------------------------------------------------------


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
