"""A published model by its name: asked about once, downloaded, converted and kept."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from icd_engine.bundles.fetch import Listing, fetch, list_source
from icd_engine.bundles.home import (
    RECEIPT,
    alone,
    asked_for,
    check_name,
    damaged,
    home,
    is_here,
    model_folder,
    receipt,
    size_of,
    source_folder,
)
from icd_engine.bundles.published import PUBLISHED, Published, Source
from icd_engine.errors import BundleError, RunnerError

YES = "ICD_YES"
PRECISION = "fp16"
NEEDED = ("torch", "transformers", "safetensors", "huggingface_hub", "filelock")
# Of archives: what they grow by when they are unpacked, and what the model made of them takes
UNPACKED, CONVERTED = 1.25, 1.25
Tell = Callable[[str], None]


def located(model: str | Path, yes: bool = False, quiet: bool = False) -> str | Path:
    """The model as it was given, or the folder of a published one that was given by its name: pulled
    where it is not here yet (see `pull`)."""
    if asked_for(model) is None:
        return model
    return model_folder(str(model)) if is_here(str(model)) else pull(str(model), yes, quiet)


def pull(name: str, yes: bool = False, quiet: bool = False) -> Path:
    """Downloads a published model, converts it and returns its folder; sources that are here already
    are not downloaded again.

    Asks first, on the terminal, unless `yes` or ICD_YES=1. What is done is told on standard error,
    unless `quiet`. Ended early, what was downloaded stays for the next time, and half a model never
    does. Raises BundleError, or RunnerError where a package is missing.
    """
    check_name(name)
    tell = partial(_tell, quiet)
    published = PUBLISHED[name]
    folder = model_folder(name)
    if is_here(name):
        return folder
    agreed = yes or _is_yes(os.environ.get(YES, ""))
    if not agreed and (quiet or not _can_ask()):
        raise BundleError(
            f"{name} is not on this machine yet: about {_gb(size_left(published))} would be "
            f"downloaded. Say --yes or set {YES}=1, or run `icd pull {name}` on a terminal first"
        )
    _check_packages(name)
    with alone(tell):
        if is_here(name):  # another process has made it
            return folder
        listings = [list_source(source) for source in published.sources if not _have(source, tell)]
        _check_room(name, published, listings)
        _tell_what(name, published, listings, tell)
        if not agreed and not _asked(f"Download and convert {name}? [y/N] "):
            raise BundleError(f"{name} was not downloaded: the answer was not yes")
        for listing in listings:
            tell(f"downloading {listing.come_from}")
            fetch(listing, bars=not quiet)
        _convert(published, folder, tell)
    tell(f"{name} is in {folder}, {_gb(size_of(folder))}")
    return folder


def size_left(published: Published) -> int:
    """Bytes that are still to be downloaded, about, without asking anybody."""
    return sum(source.size for source in published.sources if receipt(source) is None)


def _convert(published: Published, folder: Path, tell: Tell) -> None:
    from icd_engine.bundles.convert import convert

    tell(f"converting to {folder}")
    if folder.is_dir():  # without its record: `icd remove` was ended
        shutil.rmtree(folder)
    folder.parent.mkdir(exist_ok=True)  # so that what is unpacked is beside it
    bundle = convert(
        base=_given(published.base),
        teacher=_given(published.teacher),
        forward=_given(published.forward),
        reverse=_given(published.reverse),
        out=folder,
        encode_times=published.encode_times,
        decode_times=published.decode_times,
        precision=PRECISION,
    )
    for note in bundle.origin["notes"]:
        tell(f"note: {note}")


def _given(source: Source) -> Path:
    """What `convert` is given for a source: its only file, or its folder."""
    told = receipt(source)
    assert told is not None
    names = list(told["sha256"])
    return source_folder(source) / names[0] if len(names) == 1 else source_folder(source)


def _have(source: Source, tell: Tell) -> bool:
    """Whether a source is here and as it was when it was downloaded."""
    if receipt(source) is None:
        return False
    name = damaged(source)
    if name is None:
        return True
    tell(f"{source_folder(source) / name} was changed or damaged: it is downloaded again")
    (source_folder(source) / RECEIPT).unlink()
    (source_folder(source) / name).unlink()
    return False


def _tell_what(name: str, published: Published, listings: Sequence[Listing], tell: Tell) -> None:
    """Sizes, sources and licences."""
    tell(f"{name} ({published.what}) is made of")
    listed = {listing.source: listing for listing in listings}
    for source in published.sources:
        listing = listed.get(source)
        if listing is None:
            tell(f"  {'here':>8}  {source.key}")
            continue
        tell(f"  {_gb(listing.left):>8}  {listing.come_from}")
        tell(f"            licence: {listing.licence}")
        if any(remote.digest is None for remote in listing.files):
            tell("            no checksum is published: the first download's is kept and compared")
    left = sum(listing.left for listing in listings)
    tell(f"{_gb(left)} to download, into {home()}")


def _check_room(name: str, published: Published, listings: Sequence[Listing]) -> None:
    """BundleError where the disk would not hold the downloads, and beside them what is unpacked and
    the model itself."""
    sizes = {listing.source: listing.size for listing in listings}
    teacher, base, *loras = (
        sizes.get(source) or size_of(source_folder(source))
        for source in dict.fromkeys((published.teacher, *published.sources))
    )
    left = sum(listing.left for listing in listings)
    needed = left + (UNPACKED + CONVERTED) * teacher + base + UNPACKED * sum(loras)
    free = shutil.disk_usage(home()).free
    if needed > free:
        raise BundleError(
            f"{home()} has {_gb(free)} left, and {name} needs {_gb(needed)} until it is converted: "
            "make room, or name another folder in ICD_HOME"
        )


def _check_packages(name: str) -> None:
    missing = [package for package in NEEDED if find_spec(package) is None]
    if missing:
        raise RunnerError(
            f"{name} is made with packages that are not installed ({', '.join(missing)}): pull it "
            "where icd-engine is installed with its dependencies"
        )


def _is_yes(text: str) -> bool:
    return text.strip().lower() in ("1", "y", "yes", "true", "on")


def _can_ask() -> bool:
    streams = (sys.stdin, sys.stderr)
    return all(stream is not None and stream.isatty() for stream in streams)


def _asked(question: str) -> bool:
    sys.stderr.write(question)
    sys.stderr.flush()
    return _is_yes(sys.stdin.readline())


def _tell(quiet: bool, line: str) -> None:
    if not quiet and sys.stderr is not None:
        with suppress(OSError, ValueError):  # nobody listens any more
            print(line, file=sys.stderr, flush=True)


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
