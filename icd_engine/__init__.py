"""Edit real pictures by text in about seven network calls (Invertible Consistency Distillation)."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any

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
_engines: dict[tuple[Any, ...], Engine] = {}
_loading = Lock()


def __getattr__(name: str) -> Any:
    """Imports torch only when an engine is first used."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def edit(
    image: Any,
    source: str,
    target: str | Sequence[str],
    *,
    model: str = "tiny",
    device: str = "auto",
    dtype: str = "auto",
    runner: str = "auto",
    weights: str = "fused",
    offload: bool = False,
    vae_tiling: bool | None = None,
    **options: Any,
) -> EditResult:
    """Edits one picture: `source` says what it shows, `target` what it should show (several
    targets: a list).

    model: "tiny" (embedded) or a bundle folder; loaded once per process and kept, with what follows
    it (see `Engine.from_pretrained`). options: those of `Engine.edit`, the fields of EditSettings
    among them. Raises ImageError, PromptError, SettingsError, BundleError or RunnerError, all of
    them icd_engine.errors.IcdError.
    """
    from icd_engine.engine import Engine

    loaded: dict[str, Any] = {"device": device, "dtype": dtype, "runner": runner}
    loaded |= {"weights": weights, "offload": offload, "vae_tiling": vae_tiling}
    key = (str(model), *map(repr, loaded.values()))
    with _loading:
        if key not in _engines:
            _engines[key] = Engine.from_pretrained(model, **loaded)
        engine = _engines[key]
    return engine.edit(image, source, target, **options)
