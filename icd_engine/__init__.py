"""Edit real pictures by text in eight network calls (Invertible Consistency Distillation)."""

from __future__ import annotations

import os
from dataclasses import fields
from threading import Lock
from typing import TYPE_CHECKING, Any

from icd_engine.placement import Placement
from icd_engine.settings import EditSettings
from icd_engine.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icd_engine.engine import Engine
    from icd_engine.provenance import Signature
    from icd_engine.results import EditRequest, EditResult, Inversion

__all__ = [
    "EditRequest",
    "EditResult",
    "EditSettings",
    "Engine",
    "Inversion",
    "Signature",
    "__version__",
    "edit",
]

_LAZY = {
    "Engine": "icd_engine.engine",
    "EditRequest": "icd_engine.results",
    "EditResult": "icd_engine.results",
    "Inversion": "icd_engine.results",
    "Signature": "icd_engine.provenance",
}
# onnxruntime reports to its maker by default, from its first import on, whoever imports it; who wants
# that sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
_engines: dict[tuple[str, Placement], Engine] = {}
_loading = Lock()


def _in_fork() -> None:
    """In a forked process: another thread may have held the lock, and is not there to let it go."""
    global _loading
    _loading = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_fork)


def __getattr__(name: str) -> Any:
    """Imports what `_LAZY` names when it is first asked for, so that `import icd_engine` is quick."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def edit(
    image: Any,
    source: str | None,
    target: str | Sequence[str],
    *,
    model: str = "tiny",
    **options: Any,
) -> EditResult:
    """Edits one picture: `source` says what it shows, `target` what it should show (several
    targets: a list).

    model: "tiny" (embedded), a published model by its name, or a model folder; loaded once per
    process and kept, for each placement that is asked for. options: fields of Placement (device,
    dtype, runner, ...), and those of `Engine.edit`, the fields of EditSettings among them. Raises
    ImageError, PromptError, SettingsError, BundleError or RunnerError, all of them
    icd_engine.errors.IcdError.
    """
    from icd_engine.engine import Engine

    placed = {field.name for field in fields(Placement)} & options.keys()
    placement = Placement(**{name: options.pop(name) for name in placed})
    key = (str(model), placement)
    with _loading:
        if key not in _engines:
            _engines[key] = Engine.load(model, placement)
        engine = _engines[key]
    return engine.edit(image, source, target, **options)
