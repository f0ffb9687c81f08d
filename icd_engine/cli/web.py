"""`icd web`: hands out a site that `icd export --layout web` wrote, to this machine alone."""

from __future__ import annotations

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

import typer

from icd_engine.bundles.target import RECORD
from icd_engine.cli import options
from icd_engine.cli.listening import stop_signal
from icd_engine.cli.terminal import print_note
from icd_engine.errors import BundleError, RunnerError

LAYOUT = "web-1"
# With these a page may use threads
ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}
TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
    ".bin": "application/octet-stream",
}


def web(
    site: Annotated[
        Path, typer.Argument(help="Folder of icd export --layout web.", metavar="SITE")
    ] = Path("site"),
    port: Annotated[
        int, typer.Option(metavar="N", min=1, max=65535, help="Port to listen on.")
    ] = 7870,
    isolated: Annotated[
        bool,
        typer.Option(
            "--isolated/--no-isolated", help="With the headers that let a page use threads."
        ),
    ] = True,
    quiet: options.Quiet = False,
) -> None:
    """Hand out a page that edits in the browser itself, until SIGTERM or Ctrl-C.

    Any web server can do it; this one listens on 127.0.0.1 alone.

    \b
    Example:
      icd export tiny --out site --layout web
      icd web site
    """
    check_site(site)
    stopped = stop_signal()
    with open_server(site, port, isolated) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        print_note(f"{site} on http://127.0.0.1:{server.server_port}", quiet)
        stopped.wait()
        server.shutdown()


def check_site(site: Path) -> None:
    """Raises BundleError unless it is a site that was exported with its runtime."""
    try:
        manifest: Any = json.loads((site / RECORD).read_text(encoding="utf-8"))
        if manifest["format"] != LAYOUT:
            raise ValueError
    except (OSError, ValueError, LookupError, TypeError):
        raise BundleError(
            f"{site} is no site: write one with icd export tiny --out {site} --layout web"
        ) from None
    for entry in manifest["runtime"]["files"] or [{"file": "ort"}]:
        if not (site / entry["file"]).is_file():
            raise BundleError(f"{site}: {entry['file']} is missing: export it with --runtime")


def open_server(site: Path, port: int, isolated: bool = True) -> ThreadingHTTPServer:
    """A server of the folder on 127.0.0.1; port 0 takes a free one. RunnerError where it is taken."""
    handler = partial(_Handler, directory=str(site), headers=ISOLATION if isolated else {})
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise RunnerError(f"cannot listen on 127.0.0.1:{port}: {error.strerror}") from None


class _Handler(SimpleHTTPRequestHandler):
    """Files of one folder, with headers of every answer; nothing is logged."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | TYPES
    protocol_version = "HTTP/1.1"

    def __init__(self, *given: Any, headers: dict[str, str], **options: Any):
        self._own = headers
        super().__init__(*given, **options)

    def end_headers(self) -> None:
        for name, value in self._own.items():
            self.send_header(name, value)
        self.send_header("Cache-Control", "no-cache")  # asked for again, and mostly unchanged
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass
