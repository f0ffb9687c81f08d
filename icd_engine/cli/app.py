"""The program `icd`: its commands, and what an error becomes: one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from icd_engine import __version__
from icd_engine.cli.batch import batch
from icd_engine.cli.bench import bench
from icd_engine.cli.child import PASSED_ON
from icd_engine.cli.convert import convert
from icd_engine.cli.doctor import doctor
from icd_engine.cli.edit import edit
from icd_engine.cli.eval import evaluate
from icd_engine.cli.export import export
from icd_engine.cli.generate import generate
from icd_engine.cli.invert import invert
from icd_engine.cli.mcp import mcp
from icd_engine.cli.models import models, pull, remove
from icd_engine.cli.options import UsageError
from icd_engine.cli.serve import serve
from icd_engine.cli.streams import own_stdout, told_of_warnings
from icd_engine.cli.terminal import print_error, print_line, print_warning
from icd_engine.cli.ui import ui
from icd_engine.cli.web import web
from icd_engine.endings import ended_by_signals
from icd_engine.errors import IcdError

BAD_INPUT = 1
USAGE = 2
INTERRUPTED = 130

# Plain help: boxes would cut option names short in narrow terminals.
app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
for command in (
    edit,
    generate,
    invert,
    batch,
    serve,
    mcp,
    ui,
    web,
    models,
    pull,
    remove,
    convert,
    doctor,
):
    app.command()(command)
for name, command in (("bench", bench), ("eval", evaluate), ("export", export)):
    app.command(name, context_settings=PASSED_ON)(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_line(f"icd {__version__}")
        raise typer.Exit


@app.callback()
def icd(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Edit real pictures by text in eight network calls.

    \b
    Example:
      icd edit cat.png --source "a cat on a sofa" --target "a dog on a sofa" --model MODEL_FOLDER
      icd edit --demo
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; `arguments` are those of the process if None.

    Returns the exit code: see `run`.
    """
    return run(app, sys.argv[1:] if arguments is None else arguments, "icd")


def run(program: typer.Typer, arguments: Sequence[str], name: str) -> int:
    """Runs a program of this family and returns its exit code.

    0: done. 1: bad input (any IcdError), or an output that cannot be told. 2: the command line
    itself is wrong. 130: interrupted; 143 and 129: ended by SIGTERM and SIGHUP, which clean up like
    Ctrl-C. Warnings are lines on standard error.
    """
    if sys.stdout is None:  # known before hours of work
        print_error("standard output is closed")
        return BAD_INPUT
    with ended_by_signals() as ended:
        code = _run(program, arguments, name)
    if code == INTERRUPTED:
        print_error(
            "interrupted" if ended.code in (None, INTERRUPTED) else f"ended by {ended.name}"
        )
        code = ended.code or code
    return code


def _run(program: typer.Typer, arguments: Sequence[str], name: str) -> int:
    try:
        command = typer.main.get_command(program)
        with own_stdout(), told_of_warnings(print_warning):
            code = command.main(
                list(arguments) or ["--help"], prog_name=name, standalone_mode=False
            )
    except IcdError as error:
        print_error(str(error))
        return BAD_INPUT
    except UsageError as error:
        print_error(error.format_message())  # pyright: ignore[reportAttributeAccessIssue]
        return USAGE
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    return code if isinstance(code, int) else 0
