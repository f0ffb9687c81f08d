"""The log of a batch run: one line a picture, appended a whole batch at a time, so that a killed
run can go on."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from icd_engine.atomic import write_whole
from icd_engine.errors import SettingsError

RESULTS = "results.jsonl"
SUMMARY = "summary.json"
RUN = "run.json"


@dataclass(frozen=True)
class Summary:
    """What became of a manifest's rows. seconds, pictures_per_second: of the last run alone;
    resumed: rows before."""

    rows: int
    pictures: int
    errors: dict[str, int]
    resumed: int
    seconds: float
    pictures_per_second: float


class BatchLog:
    """results.jsonl of a folder. done: numbers of the batches that are in it whole; a cut tail is
    removed first."""

    def __init__(self, folder: Path, rows: int, batch: int):
        self.folder = folder
        self.rows = rows
        self.batch = batch
        self.done: set[int] = set()
        with _writing(folder / RESULTS):
            (folder / RESULTS).touch()
            os.truncate(folder / RESULTS, self._recover())
        self.resumed = sum(len(self.rows_of(number)) for number in self.done)

    @property
    def batches(self) -> int:
        return -(-self.rows // self.batch)

    def rows_of(self, number: int) -> range:
        """The row numbers of a batch."""
        return range(number * self.batch, min((number + 1) * self.batch, self.rows))

    def append(self, number: int, outcomes: Sequence[Mapping[str, Any]]) -> None:
        """Writes the lines of a whole batch at once.

        SettingsError where the disk does not take them.
        """
        text = "".join(json.dumps(outcome, ensure_ascii=False) + "\n" for outcome in outcomes)
        with _writing(self.folder / RESULTS), (self.folder / RESULTS).open("ab") as file:
            file.write(text.encode())
        self.done.add(number)

    def finish(self, seconds: float) -> Summary:
        """Counts all lines and writes summary.json."""
        with (self.folder / RESULTS).open("rb") as file:
            errors = Counter(json.loads(line).get("error") for line in file)
        pictures = errors.pop(None, 0)
        edited = self.rows - self.resumed
        rate = round(edited / seconds, 3) if seconds else 0.0
        by_type = dict(sorted(errors.items()))
        summary = Summary(self.rows, pictures, by_type, self.resumed, round(seconds, 1), rate)
        _write_json(self.folder / SUMMARY, asdict(summary))
        return summary

    def _recover(self) -> int:
        """Finds the batches that are there, and returns the length in bytes that holds nothing
        else."""
        whole = position = 0
        with (self.folder / RESULTS).open("rb") as file:
            for line in file:
                position += len(line)
                if not line.endswith(b"\n"):
                    break  # the run ended in the middle of a write
                row = json.loads(line)["row"]
                number = row // self.batch
                if row == self.rows_of(number)[-1]:
                    self.done.add(number)
                    whole = position
        return whole


@contextmanager
def open_log(folder: Path, about: Mapping[str, Any], rows: int, batch: int) -> Iterator[BatchLog]:
    """The log in `folder`, new or as an earlier run of the same `about` left it, for one process at
    a time.

    about: everything that decides what the pictures will be. SettingsError where another run is or
    was in the folder.
    """
    from filelock import FileLock, Timeout

    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise SettingsError(f"another run is writing to {folder}") from None
    try:
        _check_same(folder, about)
        yield BatchLog(folder, rows, batch)
    finally:
        lock.release()


def _check_same(folder: Path, about: Mapping[str, Any]) -> None:
    path = folder / RUN
    if not path.exists():
        if (folder / RESULTS).exists():
            raise SettingsError(
                f"{folder} has a {RESULTS} that is not of a batch: give another --out"
            )
        _write_json(path, about)
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise SettingsError(f"{path} cannot be read: give another --out") from None
    for name, value in about.items():
        if before.get(name) != value:
            raise SettingsError(
                f"{folder} holds a run with another {name} ({before.get(name)}, not {value}): give another --out"
            )


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_whole(path, (json.dumps(values, indent=2) + "\n").encode(), SettingsError)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(f"cannot write {str(path)!r}: {error.strerror or error}") from None
