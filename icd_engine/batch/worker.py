"""What runs in Ray's workers: tasks read the pictures of a batch, actors with an engine each edit
and write them."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from icd_engine.batch.manifest import Row
from icd_engine.errors import IcdError, ImageError, SettingsError, shown
from icd_engine.images import read_picture
from icd_engine.placement import Placement
from icd_engine.saving import save_image

if TYPE_CHECKING:
    from icd_engine.engine import Engine

MARKS = ".attempts"
MOST_ATTEMPTS = 3  # to edit a batch whose workers die


class Failure(NamedTuple):
    """An error as a line of the log has it: the name of one of icd_engine.errors, and one line of
    text."""

    error: str
    reason: str


def failure(error: Exception) -> Failure:
    """What any exception is called in the log."""
    name = type(error).__name__
    text = " ".join(str(error).split())[:300]
    return (
        Failure(name, text)
        if isinstance(error, IcdError)
        else Failure("RunnerError", f"{name}: {text}")
    )


def outcome(number: int, row: Row, failed: Failure | None = None) -> dict[str, Any]:
    """The log's line of a row."""
    ended = {"picture": f"{row.id}.png"} if failed is None else failed._asdict()
    return {"row": number, "id": row.id, "seed": row.seed, **ended}


def read_pictures(span: Mapping[str, int], table: Any) -> dict[str, Any]:
    """A task: the rows first .. first + count of the manifest, each with its picture decoded, or
    what is wrong with it.

    table: Ray's reference to the manifest, an Arrow table with the fields of Row.
    """
    import ray

    manifest: Any = ray.get(table)
    rows = [Row(**values) for values in manifest.slice(span["first"], span["count"]).to_pylist()]
    # One value, so that Ray never splits a batch.
    return {
        "first": span["first"],
        "loaded": pickle.dumps([(row, _picture(row)) for row in rows]),
    }


def _picture(row: Row) -> Image.Image | Failure:
    try:
        for path in (row.picture, json.loads(row.settings).get("mask")):
            _check_no_pipe(path)
        return read_picture(row.picture)
    except Exception as error:  # a row must not end the run, whatever it is
        return failure(error)


def _check_no_pipe(path: Any) -> None:
    """A pipe that nobody writes to would hold up the run. Raises ImageError."""
    if not isinstance(path, str) or os.path.isfile(path) or os.path.isdir(path):
        return
    if os.path.exists(path):
        raise ImageError(f"{shown(path)} is no file: a batch reads no pipes and devices")


class BatchEditor:
    """An actor: loads the engine with its first batch, edits batches and writes `<id>.png` for
    every row."""

    def __init__(
        self,
        out: Path,
        model: str,
        placement: Placement,
        threads: int,
        provenance: bool = True,
    ):
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is imported, with the engine
        self._out = out
        self._model = model
        self._placement = placement
        self._provenance = provenance
        self._engine: Engine | None = None

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """outcomes: the log's lines as JSON, none where workers died too often; stop: a Failure
        that ends the run."""
        outcomes, stop = [], None
        try:
            loaded = pickle.loads(batch["loaded"])
            if self._attempts(f"{batch['first']}-{len(loaded)}") <= MOST_ATTEMPTS:
                outcomes = self._edited(batch["first"], loaded)
        except Exception as error:  # no engine, no disk: it would meet every batch
            stop = failure(error)
        return {"first": batch["first"], "outcomes": json.dumps(outcomes), "stop": json.dumps(stop)}

    def _attempts(self, name: str) -> int:
        """How often this batch has been begun, kept where it outlives the process."""
        try:
            with (self._out / MARKS / name).open("ab") as file:
                file.write(b".")
                return file.tell()
        except OSError as error:
            where = os.uname().nodename
            raise SettingsError(
                f"{self._out} cannot be written to from {where}: {error.strerror}"
            ) from None

    def _edited(
        self, first: int, loaded: Sequence[tuple[Row, Image.Image | Failure]]
    ) -> list[dict[str, Any]]:
        from icd_engine.engine import Engine
        from icd_engine.results import EditRequest, EditResult
        from icd_engine.together import edit_each

        if self._engine is None:
            self._engine = Engine.load(self._model, self._placement)
        requests = [
            EditRequest(
                picture, row.source, row.target, json.loads(row.settings) | {"seed": row.seed}
            )
            for row, picture in loaded
            if isinstance(picture, Image.Image)
        ]
        edited = iter(edit_each(self._engine, requests))
        outcomes = []
        for number, (row, picture) in enumerate(loaded, start=first):
            result = picture if isinstance(picture, Failure) else next(edited)
            if isinstance(result, EditResult):
                save_image(result.image, self._out / f"{row.id}.png", provenance=self._provenance)
                failed = None
            else:
                failed = result if isinstance(result, Failure) else failure(result)
            outcomes.append(outcome(number, row, failed))
        return outcomes
