"""Many edits on Ray Data: batches fixed by the manifest's order, workers that may die, a log to go
on from."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from icd_engine import errors
from icd_engine.batch.log import BatchLog, Summary, open_log
from icd_engine.batch.manifest import Row, read_manifest
from icd_engine.batch.worker import (
    MARKS,
    MOST_ATTEMPTS,
    BatchEditor,
    Failure,
    outcome,
    read_pictures,
)
from icd_engine.bundles.bundle import read_bundle
from icd_engine.errors import RunnerError, SettingsError
from icd_engine.placement import PLAIN, Placement

ROWS_AT_ONCE = 10_000  # of the manifest, on their way into the table
MOST_LOST = 8  # batches whose workers died, while fewer than these were finished
READING_CPUS = 0.5  # unlike an editor's, so that Ray Data does not make one operator of the two
DIED = Failure("RunnerError", f"the worker that edited it died, {MOST_ATTEMPTS} times")


class Pool(NamedTuple):
    """Editors, and what each of them takes of the machines."""

    actors: int
    cpus: float
    gpus: int


def run_batch(
    manifest: str | Path,
    out: str | Path,
    *,
    model: str = "tiny",
    batch: int = 8,
    limit: int | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    actors: int | None = None,
    threads: int | None = None,
    address: str | None = None,
    provenance: bool = True,
    progress: Callable[[int, int], Any] = lambda done, rows: None,
    placement: Placement = PLAIN,
) -> Summary:
    """Edits every row of a manifest (see `read_manifest`) into `out`, and goes on where an earlier
    run was ended.

    out: a folder, on a cluster one that all its machines see, for `<id>.png`, results.jsonl and
    summary.json. A row that cannot be edited is a line of the log with the error's name. batch:
    rows that are edited together; they are fixed by the manifest's order, and an unfinished batch
    is redone whole, so pictures do not depend on when a run was killed. limit: the first rows
    alone. actors: engines, by default one a GPU, or one a machine without; threads: CPUs of each.
    address: of a Ray cluster. provenance: see `saving.save_image`. progress(done, rows) is called
    after every batch. placement: of each engine.

    Raises SettingsError for the manifest and the folder, BundleError, and RunnerError where Ray is
    missing or workers keep dying.
    """
    if find_spec("ray") is None:
        raise RunnerError("batches run on Ray Data: pip install 'icd-engine[batch]'")
    started = time.perf_counter()
    out = Path(out).resolve()
    bundle = read_bundle(model)
    table = _table(islice(read_manifest(manifest, seed=seed, settings=settings), limit))
    about = {
        "manifest": _digest(Path(manifest).read_bytes()),
        "model": [bundle.fingerprint, list(bundle.decode_times), bundle.defaults.as_json()],
        "rows": table.num_rows,
        "batch": batch,
        "seed": seed,
        "settings": dict(settings or {}),
        "provenance": provenance,
        "options": asdict(placement),
    }
    with open_log(out, about, table.num_rows, batch) as log:
        progress(log.resumed, log.rows)
        if len(log.done) < log.batches:
            with _ray(address) as nodes, _marks(out):
                pool = plan_pool(nodes, placement.device, actors, threads)
                placement = replace(placement, device="cuda" if pool.gpus else "cpu")
                where = model if model == "tiny" else str(bundle.path.resolve())
                editor = (out, where, placement, max(1, int(pool.cpus)), provenance)
                _edit(log, table, lambda spans: _answers(spans, table, pool, editor), progress)
            for part in out.glob(".*.part"):  # of workers that died while writing
                part.unlink(missing_ok=True)
        return log.finish(time.perf_counter() - started)


def plan_pool(
    nodes: Sequence[Mapping[str, float]], device: str, actors: int | None, threads: int | None
) -> Pool:
    """The editors for machines with these resources; they leave a CPU to read pictures with, or Ray
    Data would hang.

    Raises RunnerError where CUDA is asked for and absent, SettingsError where more is asked for
    than there is.
    """
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if device == "cuda" and not gpus:
        raise RunnerError("device 'cuda' was asked for, but Ray has no GPU")
    on_gpu = device != "cpu" and gpus > 0
    count = actors or (gpus if on_gpu else len(nodes))
    if on_gpu and count > gpus:
        raise SettingsError(f"{count} actors need a GPU each, and there are {gpus}")
    each = threads or (1 if on_gpu else max(1, (min(cpus) - 1) // -(-count // len(nodes))))
    if sum(cpus) == 1 and count * each == 1:
        return Pool(1, 0.5, int(on_gpu))
    if count * each >= sum(cpus):
        raise SettingsError(
            f"{count} actors of {each} CPUs leave none of {sum(cpus)} to read pictures: ask for less"
        )
    return Pool(count, each, int(on_gpu))


def _edit(
    log: BatchLog,
    table: Any,
    answers: Callable[[Sequence[range]], Iterator[tuple[int, list[dict[str, Any]]]]],
    progress: Callable[[int, int], Any],
) -> None:
    """Edits the batches that the log lacks, then row by row those whose workers died: one row may
    be to blame."""
    done = log.resumed
    lost = 0
    before = len(log.done)
    missing = [number for number in range(log.batches) if number not in log.done]
    for first, outcomes in answers([log.rows_of(number) for number in missing]):
        number = first // log.batch
        if outcomes and number not in log.done:
            log.append(number, outcomes)
            done += len(outcomes)
            progress(done, log.rows)
        lost += not outcomes
        if lost > max(MOST_LOST, len(log.done) - before):
            raise RunnerError(
                f"workers died in {lost} batches: is there memory for {log.batch} rows at a time?"
            )
    missing = [number for number in missing if number not in log.done]
    rows = [row for number in missing for row in log.rows_of(number)]
    alone = {
        first: outcomes[0]
        for first, outcomes in answers([range(row, row + 1) for row in rows])
        if outcomes
    }
    for number in missing:
        outcomes = [
            alone.get(row) or outcome(row, _row(table, row), DIED) for row in log.rows_of(number)
        ]
        log.append(number, outcomes)
        done += len(outcomes)
        progress(done, log.rows)


def _answers(
    spans: Sequence[range], table: Any, pool: Pool, editor: tuple[Any, ...]
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """(first row, lines of the log) for spans of rows, as they are finished; no lines where workers
    died too often.

    A span is one value of a data set and one block, Ray's unit of work: it is edited whole or
    again.
    """
    if not spans:
        return
    import ray

    items = [{"first": span.start, "count": len(span)} for span in spans]
    read = ray.data.from_items(items, override_num_blocks=len(items)).map(
        read_pictures,  # pyright: ignore[reportArgumentType]  # Ray declares one argument, and passes fn_kwargs
        fn_kwargs={"table": ray.put(table)},
        num_cpus=READING_CPUS,
    )
    edited = read.map(
        BatchEditor,  # pyright: ignore[reportArgumentType]
        fn_constructor_args=editor,
        compute=ray.data.ActorPoolStrategy(size=pool.actors),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
    )
    for answer in edited.iter_rows():
        stop = json.loads(answer["stop"])
        if stop is not None:
            name, reason = stop
            raise getattr(errors, name)(reason)
        yield answer["first"], json.loads(answer["outcomes"])


@contextmanager
def _ray(address: str | None) -> Iterator[list[dict[str, float]]]:
    """Ray on this machine or at `address`, quietly; yields the resources of each machine.

    A running one is used.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # The log has a line for what is worth knowing
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray
    import ray.data

    ours = not ray.is_initialized()
    if ours:
        local: dict[str, Any] = {} if address else {"include_dashboard": False}
        try:
            ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise RunnerError(
                f"no Ray at {address or 'this machine'}: {' '.join(str(error).split())[:300]}"
            ) from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.max_errored_blocks = MOST_LOST  # pictures that kill the task that reads them
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        # Ray prints every death of a worker there
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        if ours:
            ray.shutdown()


@contextmanager
def _marks(out: Path) -> Iterator[None]:
    """A folder for how often each batch was begun in this run."""
    shutil.rmtree(out / MARKS, ignore_errors=True)
    (out / MARKS).mkdir()
    yield
    shutil.rmtree(out / MARKS, ignore_errors=True)


def _table(rows: Iterator[Row]) -> Any:
    """The manifest as an Arrow table, which workers map into memory instead of copying.

    SettingsError without a row.
    """
    import pyarrow

    kinds = {"seed": pyarrow.int64()}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in Row.__slots__])
    chunks = iter(lambda: [asdict(row) for row in islice(rows, ROWS_AT_ONCE)], [])
    table = pyarrow.concat_tables(
        [
            schema.empty_table(),
            *(pyarrow.Table.from_pylist(chunk, schema=schema) for chunk in chunks),
        ]
    )
    if not table.num_rows:
        raise SettingsError("the manifest has no rows")
    return table


def _row(table: Any, number: int) -> Row:
    return Row(**table.slice(number, 1).to_pylist()[0])


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
