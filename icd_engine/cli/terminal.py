"""What a command says: written paths on stdout, everything else on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from icd_engine.engine import Engine
    from icd_engine.placement import Placement


def print_path(path: Path) -> None:
    """Tells of a file or folder that now exists."""
    print(path, flush=True)


def print_note(text: str, quiet: bool = False) -> None:
    """Tells of anything else."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


def print_error(text: str) -> None:
    """One line, whatever the text."""
    print_note(f"icd: error: {' '.join(text.split())}")


@contextmanager
def hop_bar(total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar of `total` hops; yields what advances it.

    Nothing is drawn where stderr is not a terminal.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda hops: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("hops"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda hops: bar.advance(task, hops)


@contextmanager
def picture_bar(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar with pictures per second and the time left; yields what is told (done,
    total)."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(TextColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.2f} pictures/s" if task.speed else "")

    columns = (
        TextColumn("pictures"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(""),
        TimeRemainingColumn(),
    )
    # A batch may take minutes: the speed is measured over ten.
    with Progress(
        *columns, console=Console(stderr=True), transient=True, speed_estimate_period=600
    ) as bar:

        def report(done: int, total: int) -> None:
            # What an earlier run did is not of this one's speed: it is there when the task is made.
            if not bar.task_ids:
                bar.add_task("", total=total, completed=done)
            else:
                bar.update(bar.task_ids[0], completed=done)

        yield report


def open_engine(model: str, quiet: bool, placement: Placement) -> Engine:
    """Loads a model, with a spinner where stderr is a terminal. Raises BundleError, RunnerError."""
    from icd_engine.engine import Engine

    if quiet or not sys.stderr.isatty():
        return Engine.load(model, placement)
    from rich.console import Console

    with Console(stderr=True).status(f"loading {model}"):
        return Engine.load(model, placement)
