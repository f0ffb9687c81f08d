"""`icd serve`: the engine behind HTTP, in OpenAI's shape, with a queue, limits and a clean end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.pull import located
from icd_engine.cli import options
from icd_engine.cli.listening import is_loopback, spare_local, stop_signal
from icd_engine.cli.terminal import print_error, print_note
from icd_engine.placement import PLAIN
from icd_engine.serving.limits import PROMPT_CHARACTERS, Limits
from icd_engine.serving.offer import Offer
from icd_engine.serving.running import start, stop, wait_until_warm, watch

TOKEN = "ICD_TOKEN"
CAPTIONER_KEY = "ICD_CAPTIONER_KEY"
DEFAULTS = Limits()


@options.placed
def serve(
    model: options.Model = "tiny",
    yes: options.Yes = False,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="Address to listen on; one that others can reach needs --token."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", min=1, max=65535, help="Port to listen on.")
    ] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            envvar=TOKEN,
            help="Token that clients must send; ICD_TOKEN keeps it off the command line.",
        ),
    ] = None,
    replicas: Annotated[
        int, typer.Option(metavar="N", min=1, help="Engines, each with a GPU of its own.")
    ] = 1,
    batch: Annotated[
        int, typer.Option(metavar="N", min=1, max=64, help="Most requests edited together.")
    ] = DEFAULTS.batch,
    queue: Annotated[
        int, typer.Option(metavar="N", min=0, help="Most requests that wait; one more is refused.")
    ] = DEFAULTS.queue,
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.1, help="Longest time from a request to its answer."),
    ] = DEFAULTS.seconds,
    body_timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.1, help="Longest time that a request may arrive in."),
    ] = DEFAULTS.body_seconds,
    max_body: Annotated[
        int, typer.Option(metavar="MIB", min=1, max=1024, help="Largest body of a request.")
    ] = DEFAULTS.body_bytes >> 20,
    max_megapixels: Annotated[
        float, typer.Option(metavar="N", min=0.001, max=32, help="Largest picture.")
    ] = DEFAULTS.pixels / 1e6,
    inversions: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Most pictures kept encoded; those used last stay."),
    ] = DEFAULTS.inversions,
    inversion_ttl: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=1, help="Time after which a kept picture is forgotten."
        ),
    ] = DEFAULTS.inversion_seconds,
    source_prompt: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Source prompt of edits that come without one."),
    ] = None,
    captioner: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="OpenAI-compatible API that describes pictures without a source prompt; ICD_CAPTIONER_KEY: its token.",
        ),
    ] = None,
    captioner_model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Its model.", show_default="its first"),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Pages in browsers that may call the service: https://example.com, or '*'. May be given again.",
        ),
    ] = None,
    placement: options.Placed = PLAIN,
    quiet: options.Quiet = False,
) -> None:
    """Serve edits over HTTP until SIGTERM or Ctrl-C, which answer what is under way first.

    POST /v1/images/edits as at OpenAI, plus source_prompt; /v1/inversions; /v1/models; /health,
    /ready, /metrics, /openapi.json.

    \b
    Example:
      icd serve --model MODEL_FOLDER
      curl 127.0.0.1:8000/v1/images/edits -F image=@cat.png -F source_prompt="a cat" -F prompt="a dog"
    """
    _check_address(host, token)
    options.check_any_device(placement)
    folder = str(located(model, yes, quiet))
    bundle = read_bundle(folder)  # a wrong folder shows before anything is started
    offer = Offer(
        model=Path(model).name or model,
        steps=len(bundle.decode_times),
        source_prompt=_checked_prompt(source_prompt),
        captioner=_checked_captioner(captioner),
        captioner_model=captioner_model,
        captioner_key=os.environ.get(CAPTIONER_KEY),
        origins=tuple(_checked_origin(origin) for origin in cors or ()),
    )
    limits = Limits(
        replicas=replicas,
        batch=batch,
        queue=queue,
        seconds=timeout,
        body_seconds=body_timeout,
        body_bytes=max_body << 20,
        pixels=int(max_megapixels * 1e6),
        inversions=inversions,
        inversion_seconds=inversion_ttl,
    )
    spare_local(host)
    start(host, port, token, folder, placement, limits, offer)
    stopped = stop_signal()
    watch(host, port, _give_up)
    try:
        print_note(f"serving {model} on http://{host}:{port}, loading", quiet)
        if wait_until_warm(stopped.is_set):
            print_note("ready", quiet)
        stopped.wait()
        print_note("stopping: answering what is under way", quiet)
    finally:
        stop(limits.seconds)


def _checked_prompt(text: str | None) -> str | None:
    if text is not None and not 0 < len(text.strip()) <= PROMPT_CHARACTERS:
        raise options.usage_error(
            f"must have 1 to {PROMPT_CHARACTERS} characters", "--source-prompt"
        )
    return text


def _checked_captioner(url: str | None) -> str | None:
    parts = urlsplit(url or "http://none")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise options.usage_error(f"{url!r} is no http:// or https:// URL", "--captioner")
    return url


def _checked_origin(origin: str) -> str:
    """As browsers send it: a page that is named otherwise would be turned away without a word."""
    parts = urlsplit(origin)
    exact = parts.hostname and origin == f"{parts.scheme}://{parts.netloc}"
    if origin != "*" and not exact:
        raise options.usage_error(
            f"{origin!r} is no origin: scheme://host or scheme://host:port, or '*'", "--cors"
        )
    return origin


def _give_up() -> None:
    """From another thread: the main one may wait for what is lost."""
    print_error("the service no longer answers: start it anew")
    os._exit(1)


def _check_address(host: str, token: str | None) -> None:
    if token is not None and not (
        token.isascii() and token.isprintable() and token.strip() == token != ""
    ):
        raise options.usage_error("must be printable ASCII, without spaces around it", "--token")
    if token is None and not is_loopback(host):
        raise options.usage_error(
            f"{host} can be reached from elsewhere: give --token or {TOKEN}", "--host"
        )
