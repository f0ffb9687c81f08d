"""`icd mcp`: the engine as tools of agents, over standard input and output or HTTP."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.pull import located
from icd_engine.cli import options, origin
from icd_engine.cli.listening import TOKEN, check_token, stop_signal
from icd_engine.cli.terminal import print_note
from icd_engine.errors import RunnerError
from icd_engine.placement import PLAIN, Placement

if TYPE_CHECKING:
    from icd_engine.engine import Engine


@options.placed
def mcp(
    model: options.Model = "tiny",
    yes: options.Yes = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder whose pictures may be named, and where edits may be written as new files.",
            show_default="no files",
        ),
    ] = None,
    http: Annotated[
        bool, typer.Option("--http", help="Serve HTTP at /mcp, not standard input and output.")
    ] = False,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="Address of --http; one that others can reach needs --token."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", min=1, max=65535, help="Port of --http.")
    ] = 8001,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            envvar=TOKEN,
            help="Token that clients of --http must send; ICD_TOKEN keeps it off the command line.",
        ),
    ] = None,
    sessions: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Most pictures kept encoded; those used last stay."),
    ] = 8,
    max_file: Annotated[
        int, typer.Option(metavar="MIB", min=1, max=1024, help="Largest file of a picture.")
    ] = 16,
    max_megapixels: Annotated[
        float, typer.Option(metavar="N", min=0.001, max=64, help="Largest picture.")
    ] = 16,
    c2pa_cert: origin.C2paCert = None,
    c2pa_key: origin.C2paKey = None,
    c2pa_time: origin.C2paTime = None,
    watermark: origin.Watermark = False,
    provenance: origin.Provenance = True,
    placement: options.Placed = PLAIN,
    quiet: options.Quiet = False,
) -> None:
    """Serve agents that speak the Model Context Protocol, until they hang up or SIGTERM.

    Tools: edit_picture, start_session, edit_session, end_session, list_models. It needs
    pip install 'icd-engine[mcp]'.

    \b
    Example:
      icd mcp --folder ~/Pictures
      ICD_TOKEN=secret icd mcp --http --port 8001
    """
    if http:
        check_token(host, token)
    if find_spec("mcp") is None:
        raise RunnerError("agents are served with MCP's library: pip install 'icd-engine[mcp]'")
    from icd_engine.integrations.mcp.folder import Granted
    from icd_engine.integrations.mcp.listen import over_http, over_stdio
    from icd_engine.integrations.mcp.pictures import Pictures
    from icd_engine.integrations.mcp.server import server
    from icd_engine.integrations.mcp.work import Desk

    pictures = Pictures(
        None if folder is None else Granted(folder),
        int(max_megapixels * 1e6),
        max_file << 20,
        origin.marks(provenance, c2pa_cert, c2pa_key, c2pa_time, watermark),
    )
    bundle = located(model, yes, quiet)
    read_bundle(bundle)  # a wrong folder shows before anybody is served
    made = server(Desk(_loading(str(bundle), placement), model, pictures, sessions))
    if not http:
        return over_stdio(made)
    stopped = stop_signal()
    print_note(f"serving {model} to agents on http://{host}:{port}/mcp", quiet)
    # Base64 is four thirds of a file, and a picture may come with a mask
    over_http(made, host, port, token, 3 * (max_file << 20), stopped)


def _loading(model: str, placement: Placement) -> Callable[[], Engine]:
    """Loads the model beside the first messages, which clients give a few seconds; gives it to who
    needs it."""

    def load() -> Engine:
        from icd_engine.engine import Engine

        return Engine.load(model, placement)

    loader = ThreadPoolExecutor(1, "loading")
    loaded = loader.submit(load)
    loader.shutdown(wait=False)
    return loaded.result
