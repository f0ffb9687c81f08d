"""A model's name or folder becomes a model that is ready to run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from icd_engine.bundles.bundle import Bundle, read_bundle
from icd_engine.bundles.pull import located
from icd_engine.editing.words import PromptTokenizer
from icd_engine.errors import RunnerError
from icd_engine.model import Model
from icd_engine.placement import Placement
from icd_engine.runners.contract import Runner
from icd_engine.shortage import attempt


def load_model(name: str | Path, placement: Placement) -> Model:
    """The embedded model "tiny", a published one by its name, or a model folder, ready to run. Raises
    BundleError, RunnerError, OutOfMemoryError."""
    bundle = read_bundle(located(name))
    tokenizer = PromptTokenizer.from_folder(bundle.path / "tokenizer")
    load_runner = _loader(bundle, placement)
    runner = attempt(
        lambda: load_runner(bundle, placement),
        free=lambda: None,
        what=f"out of memory while {bundle.path} was loaded",
    )
    return Model(bundle, runner, tokenizer)


def _loader(bundle: Bundle, placement: Placement) -> Callable[[Bundle, Placement], Runner]:
    """What loads the folder's graphs, or its weights. RunnerError where torch is not installed."""
    if bundle.exported is not None:
        from icd_engine.runners.exported import load_exported_runner

        return load_exported_runner
    from icd_engine.runners.converted import load_converted_runner, runs_converted

    if runs_converted(bundle, placement):
        return load_converted_runner
    try:
        from icd_engine.loading import load_runner
    except ModuleNotFoundError as error:
        raise RunnerError(
            f"a folder of weights needs torch ({error}); without it, edit with "
            "a folder that `icd export` made elsewhere"
        ) from None
    return load_runner
