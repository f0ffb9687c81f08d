"""The log of a batch run: what a killed run leaves is found again, and nothing is in it twice."""

import json
from pathlib import Path

import pytest

pytest.importorskip("filelock")

from icd_engine.batch.log import RESULTS, SUMMARY, open_log
from icd_engine.errors import SettingsError

ABOUT = {"model": "tiny", "batch": 2}


def lines(*rows: int) -> list[dict[str, object]]:
    return [{"row": row, "picture": f"{row}.png"} for row in rows]


def written(folder: Path) -> list[int]:
    return [json.loads(line)["row"] for line in (folder / RESULTS).read_text().splitlines()]


def test_whole_batches_are_found_again(tmp_path):
    with open_log(tmp_path, ABOUT, rows=5, batch=2) as log:
        assert (log.batches, log.done, log.resumed) == (3, set(), 0)
        log.append(2, lines(4))
        log.append(0, lines(0, 1))
    with open_log(tmp_path, ABOUT, rows=5, batch=2) as log:
        assert (log.done, log.resumed) == ({0, 2}, 3)


@pytest.mark.parametrize("kept", range(0, 60, 7))
def test_a_cut_tail_is_removed(tmp_path, kept):
    with open_log(tmp_path, ABOUT, rows=5, batch=2) as log:
        log.append(0, lines(0, 1))
        whole = (tmp_path / RESULTS).stat().st_size
        log.append(1, lines(2, 3))
    with (tmp_path / RESULTS).open("r+b") as file:
        file.truncate(whole + kept)  # the second batch has 64 bytes
    with open_log(tmp_path, ABOUT, rows=5, batch=2) as log:
        assert log.done == {0}
        log.append(1, lines(2, 3))
        log.append(2, lines(4))
    assert written(tmp_path) == [0, 1, 2, 3, 4]


def test_a_summary_counts_all_runs(tmp_path):
    with open_log(tmp_path, ABOUT, rows=5, batch=2) as log:
        log.append(
            0,
            [
                {"row": 0, "picture": "0.png"},
                {"row": 1, "error": "ImageError", "reason": "no such file"},
            ],
        )
    with open_log(tmp_path, ABOUT, rows=5, batch=2) as log:
        log.append(1, [{"row": 2, "error": "PromptError"}, {"row": 3, "error": "ImageError"}])
        log.append(2, lines(4))
        summary = log.finish(seconds=1.5)
    assert (summary.rows, summary.pictures, summary.errors) == (
        5,
        2,
        {"ImageError": 2, "PromptError": 1},
    )
    assert (summary.resumed, summary.seconds, summary.pictures_per_second) == (2, 1.5, 2.0)
    assert json.loads((tmp_path / SUMMARY).read_text())["pictures"] == 2


def test_another_run_is_refused(tmp_path):
    with (
        open_log(tmp_path, ABOUT, rows=5, batch=2),
        pytest.raises(SettingsError, match="another run is writing"),
        open_log(tmp_path, ABOUT, rows=5, batch=2),
    ):
        pass
    with (
        pytest.raises(SettingsError, match=r"another batch \(2, not 3\)"),
        open_log(tmp_path, {"batch": 3}, 5, 3),
    ):
        pass


def test_a_folder_that_is_not_of_a_batch_is_refused(tmp_path):
    (tmp_path / RESULTS).write_text("mine\n")
    with pytest.raises(SettingsError, match="not of a batch"), open_log(tmp_path, ABOUT, 5, 2):
        pass
    assert (tmp_path / RESULTS).read_text() == "mine\n"
    with (
        pytest.raises(SettingsError, match="cannot write"),
        open_log(tmp_path / RESULTS / "out", ABOUT, 5, 2),
    ):
        pass
