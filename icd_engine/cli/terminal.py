"""What a command says: written paths, or the picture itself, on stdout; everything else on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from icd_engine.bundles.pull import located
from icd_engine.cli.streams import is_terminal, to_stderr

if TYPE_CHECKING:
    from icd_engine.engine import Engine
    from icd_engine.placement import Placement


def print_path(path: Path) -> None:
    """Tells of a file or folder that now exists. IcdError where standard output takes no more."""
    print_line(str(path))


def print_line(text: str) -> None:
    """What a command was asked to tell. IcdError where standard output takes no more."""
    print(text, flush=True)


def print_note(text: str, quiet: bool = False) -> None:
    """Tells of anything else."""
    if not quiet:
        to_stderr(f"{text}\n")


def print_error(text: str) -> None:
    """One line, whatever the text."""
    print_note(f"icd: error: {' '.join(text.split())}")


def print_warning(text: str) -> None:
    """One line, whatever the text."""
    print_note(f"icd: warning: {' '.join(text.split())}")


@contextmanager
def hop_bar(total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar of `total` hops; yields what advances it.

    Nothing is drawn where stderr is not a terminal.
    """
    if quiet or not is_terminal(sys.stderr):
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
    if quiet or not is_terminal(sys.stderr):
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


def open_engine(model: str, quiet: bool, placement: Placement, yes: bool = False) -> Engine:
    """Loads a model, with a spinner where stderr is a terminal; a published one is pulled first, and
    asked about unless `yes`. Raises BundleError, RunnerError."""
    from icd_engine.engine import Engine

    folder = located(model, yes, quiet)
    if quiet or not is_terminal(sys.stderr):
        return Engine.load(folder, placement)
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(f"loading {model}")):  # brackets are no markup there
        return Engine.load(folder, placement)
