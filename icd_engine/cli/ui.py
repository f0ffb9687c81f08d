"""`icd ui`: a page in the browser for one model."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from icd_engine.bundles.demo import PICTURE, Demo, read_demo
from icd_engine.cli import options
from icd_engine.cli.listening import is_loopback, spare_local, stop_signal
from icd_engine.cli.terminal import open_engine, print_note
from icd_engine.errors import RunnerError
from icd_engine.placement import PLAIN

if TYPE_CHECKING:
    from icd_engine.engine import Engine

AUTH = "ICD_AUTH"
SCENES = Path(__file__).parents[1] / "page" / "scenes"  # more of the embedded model's world


@options.placed
def ui(
    model: options.Model = "tiny",
    yes: options.Yes = False,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="Address to listen on; one that others can reach needs --auth."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", min=1, max=65535, help="Port to listen on.")
    ] = 7860,
    auth: Annotated[
        str | None,
        typer.Option(
            metavar="USER:PASSWORD",
            envvar=AUTH,
            help="User and password to log in with; ICD_AUTH keeps them off the command line.",
        ),
    ] = None,
    queue: Annotated[
        int, typer.Option(metavar="N", min=1, help="Most edits that wait; one more is refused.")
    ] = 16,
    placement: options.Placed = PLAIN,
    quiet: options.Quiet = False,
) -> None:
    """Edit pictures on a page in the browser, until SIGTERM or Ctrl-C.

    Pictures are kept in memory and in a temporary folder, for an hour after their last use and
    until the end at most. It needs pip install 'icd-engine[ui]'.

    \b
    Example:
      icd ui
      icd ui --model MODEL_FOLDER --port 8080
    """
    login = _login(auth)
    if login is None and not is_loopback(host):
        raise options.usage_error(
            f"{host} can be reached from elsewhere: give --auth or {AUTH}", "--host"
        )
    if find_spec("gradio") is None:
        raise RunnerError("the page is made with Gradio: pip install 'icd-engine[ui]'")
    engine = open_engine(model, quiet, placement, yes)
    stopped = stop_signal()
    with TemporaryDirectory(prefix="icd-ui-") as folder:
        # Read when Gradio is imported: what browsers send and get
        os.environ["GRADIO_TEMP_DIR"] = folder
        spare_local(host)  # Gradio asks its own page whether it is there
        from icd_engine.page.app import build_page, start

        server = start(
            build_page(engine, _examples(engine, model), Path(folder)), host, port, login, queue
        )
        print_note(f"{model} on http://{host}:{port}", quiet)
        stopped.wait()
        server.close(verbose=False)


def _login(auth: str | None) -> tuple[str, str] | None:
    if auth is None:
        return None
    user, colon, password = auth.partition(":")
    if not (user and colon and password):
        raise options.usage_error("must be USER:PASSWORD", "--auth")
    return user, password


def _examples(engine: Engine, model: str) -> list[Demo]:
    """The model's own demonstration, if it has one, and scenes of its world if that is known."""
    own = [read_demo(engine.bundle.path)] if (engine.bundle.path / PICTURE).is_file() else []
    return own + (
        [read_demo(folder) for folder in sorted(SCENES.iterdir())] if model == "tiny" else []
    )
