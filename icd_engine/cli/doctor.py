"""`icd doctor`: what is installed, what it can run on, and whether a model is whole."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from typing import Annotated

import typer

from icd_engine import __version__
from icd_engine.bundles.bundle import Bundle, read_bundle
from icd_engine.bundles.kept_graphs import PRECISIONS, is_converted
from icd_engine.cli import options
from icd_engine.cli.report import describe, in_units, size_on_disk
from icd_engine.cli.terminal import print_error, print_line
from icd_engine.errors import BundleError, IcdError

NEEDED = ("tokenizers", "numpy", "pillow", "typer", "rich")
FOR_WEIGHTS = ("torch", "safetensors")  # an exported folder does without
OPTIONAL = (
    "transformers",
    "diffusers",
    "triton",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
)
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")  # of which an exported folder needs one
CHECKED_BELOW = 10**9  # bytes on disk: an edit of a larger model takes minutes on a CPU
Finding = tuple[str, str, bool]  # name, text, whether it is sound


def doctor(
    model: options.ModelArgument = "tiny",
    check: Annotated[
        bool | None,
        typer.Option(
            "--self-check/--no-self-check", help="Edit a picture.", show_default="models below 1 GB"
        ),
    ] = None,
) -> None:
    """Check the installation and a model.

    Tells what the model is and what memory it needs, and edits a picture with it. The exit code is
    1 if something is broken.

    \b
    Example:
      icd doctor
      icd doctor MODEL_FOLDER
    """
    exported = _is_exported(model)
    broken = _tell(
        chain(_packages(exported), _providers() if exported else _devices(), _model(model))
    )
    if not broken:  # what is broken need not be tried
        broken = _tell(_self_check(model, check))
    for problem in broken:
        print_error(problem)
    if broken:
        raise typer.Exit(1)


def _tell(findings: Iterable[Finding]) -> list[str]:
    """Prints each as it is found; those that are not sound come back."""
    broken = []
    for name, text, sound in findings:
        print_line(f"{name:<16}{text if sound else 'BROKEN: ' + text}")
        if not sound:
            broken.append(f"{name}: {text}")
    return broken


def _is_exported(model: str) -> bool:
    try:
        return read_bundle(model, verify=False).exported is not None
    except BundleError:
        return False  # what is wrong with it is told later


def _packages(exported: bool) -> Iterator[Finding]:
    yield "icd-engine", __version__, True
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", True
    versions = {name: _version(name) for name in (*NEEDED, *FOR_WEIGHTS, *OPTIONAL)}
    for name, found in versions.items():
        needed = name in NEEDED or (name in FOR_WEIGHTS and not exported)
        yield (
            name,
            found or f"not installed{'' if needed else ' (optional)'}",
            bool(found) or not needed,
        )
    if exported and not any(versions[name] for name in (*RUNTIMES, "openvino")):
        yield "onnxruntime", "not installed, and the model is an exported folder", False
    if all(versions[name] for name in RUNTIMES):
        yield (
            "onnxruntime",
            "both onnxruntime and onnxruntime-gpu are installed and overwrite each other",
            False,
        )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _providers() -> Iterator[Finding]:
    try:
        import onnxruntime
    except ImportError:
        return  # told among the packages
    yield "providers", ", ".join(onnxruntime.get_available_providers()), True


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:  # a damaged installation raises ImportError, OSError and more
        yield "torch", f"cannot be imported: {error}", False
        return
    yield "cpu", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads", True
    if not torch.cuda.is_available():
        yield "cuda", "none usable" if torch.version.cuda else "none (torch is a CPU build)", True
    for i in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(i)
        yield (
            f"cuda:{i}",
            f"{card.name}, {in_units(card.total_memory)}, sm_{card.major}{card.minor}",
            True,
        )


def _self_check(model: str, wanted: bool | None) -> Iterator[Finding]:
    from icd_engine.cli.selfcheck import self_check

    if wanted is False or (
        wanted is None and size_on_disk(read_bundle(model, verify=False)) > CHECKED_BELOW
    ):
        yield "self-check", "not run (--self-check runs it)" if wanted is None else "not run", True
        return
    try:
        for name, text in self_check(model):
            yield name, text, True
    except IcdError as error:
        yield "self-check", str(error), False


def _converted(bundle: Bundle) -> Iterator[Finding]:
    if bundle.exported is None and bundle.guidance_embedded and _version("openvino"):
        kept = (
            "converted: CPUs take it"
            if is_converted(bundle, *PRECISIONS)
            else "--runner openvino converts it once"
        )
        yield "for openvino", kept, True


def _model(model: str) -> Iterator[Finding]:
    try:
        bundle = read_bundle(model, verify=False)
        for name, text in describe(bundle):
            yield name, text, True
        yield from _converted(bundle)
        bundle.verify()
    except BundleError as error:
        yield "model", str(error), False
        return
    count = len(bundle.sha256)
    yield (
        "SHA-256",
        f"{count} files are as recorded" if count else "none recorded in icd.json: not checked",
        True,
    )
