"""ExportedEngine graphs: what an export takes and how exact it is, and onnxruntime against torch on the
same edits."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.architectures import cache_folder
from benchmarks.checks import EXACT, ROUNDED, Refused, require_equal
from benchmarks.record import note
from benchmarks.subject import final_latents, measured_bundle, open_subject
from benchmarks.timing import default_warmup, interleave, peak_memory_mib
from benchmarks.workload import make_cases
from icd_engine import Engine
from icd_engine.bundles.bundle import Bundle
from icd_engine.editing.plan import edit_steps, make_plan
from icd_engine.errors import RunnerError
from icd_engine.loading import choose_dtype
from icd_engine.runners.contract import Blend, DecodeInputs

PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16"}


@dataclass(frozen=True)
class ExportedEngine:
    """An engine on a folder that was just exported, and what that took."""

    engine: Engine
    about: dict[str, Any]


def measure_onnx(*, repeats: int = 10, warmup: int | None = None, **options: Any) -> dict[str, Any]:
    """Whole edits and re-edits by onnxruntime and by the torch runner, turn by turn.

    Raises Refused where they differ, IcdError for what cannot be loaded or exported.
    """
    subject = open_subject(**options)
    warmup = default_warmup(subject.device) if warmup is None else warmup
    cases = make_cases(warmup + repeats + 1, subject.size)
    with exported(subject.engine.bundle, subject.dtype, str(subject.device)) as other:
        limit = EXACT if subject.exact else ROUNDED[subject.dtype]
        theirs = subject.edit(cases[-1])
        ours = subject.edit(cases[-1], other.engine)
        distance = require_equal(
            "onnxruntime's edit", final_latents(ours), final_latents(theirs), limit
        )
        edits = {
            "torch": lambda i: subject.edit(cases[i]),
            "onnx": lambda i: subject.edit(cases[i], other.engine),
            "torch_further": lambda i: theirs.inversion.edit(
                cases[i].target, seed=theirs.inversion.seed
            ),
            "onnx_further": lambda i: ours.inversion.edit(
                cases[i].target, seed=ours.inversion.seed
            ),
        }
        times = interleave(edits, subject.device, repeats, warmup)
    measured = {
        key: value for name, one in times.items() for key, value in one.as_dict(name).items()
    }
    return {
        **subject.as_dict(),
        "provider": other.engine.runner.device,
        "threads": torch.get_num_threads(),
        **other.about,
        "agreement": {"onnxruntime": float(f"{distance:.2e}")},
        **measured,
        "ratio": round(times["torch"].p50 / times["onnx"].p50, 3),
        "repeats": repeats,
        "warmup": warmup,
    }


def measure_export(**options: Any) -> dict[str, Any]:
    """What an export takes, and one encode and one decode hop of it at the model's own size against
    torch's.

    One after the other, so that the networks are in memory once: `peak_memory_mib` is what an
    export needs.
    """
    model, architecture, size = (options.pop(name) for name in ("model", "architecture", "size"))
    bundle, _ = measured_bundle(model, architecture, size)
    dtype = choose_dtype(options["dtype"], options["device"])
    hops = {"encode_hop": _encode_hop, "decode_hop": _decode_hop}
    with exported(bundle, dtype, options["device"]) as other:
        got = {name: _timed(partial(hop, other.engine)) for name, hop in hops.items()}
        about = other.about
        peak = peak_memory_mib(torch.device("cpu"))
        del other  # its sessions, before torch's networks are loaded
    gc.collect()
    subject = open_subject(model, architecture, size, **options)
    result = {
        **subject.as_dict(),
        "threads": torch.get_num_threads(),
        **about,
        "peak_memory_mib": peak,
    }
    for name, hop in hops.items():
        expected, torch_ms = _timed(partial(hop, subject.engine))
        array, ms = got[name]
        limit = EXACT if subject.exact else ROUNDED[subject.dtype]
        distance = require_equal(name, torch.as_tensor(array), torch.as_tensor(expected), limit)
        result |= {
            f"{name}_ms": ms,
            f"{name}_torch_ms": torch_ms,
            f"{name}_error": float(f"{distance:.2e}"),
        }
    return result


@contextmanager
def exported(bundle: Bundle, dtype: torch.dtype, device: str) -> Iterator[ExportedEngine]:
    """The bundle exported in a precision, unchecked but for what follows, and loaded."""
    precision = PRECISIONS.get(dtype)
    if precision is None:
        raise RunnerError(f"exports are float32 or float16, not {dtype}")
    with TemporaryDirectory(prefix="icd-export-", dir=_beside(bundle)) as scratch:
        folder = Path(scratch) / "exported"
        manifest, export_ms = _timed(lambda: _export(bundle, folder, precision))
        gc.collect()
        engine, load_ms = _timed(
            lambda: Engine.from_pretrained(folder, device=device, runner="onnx")
        )
        about = {
            "opset": manifest["opset"],
            "graphs": len(manifest["graphs"]),
            "export_s": round(export_ms / 1000, 1),
            "onnx_load_ms": load_ms,
            "disk_mib": round(
                sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20, 1
            ),
        }
        note(f"exported in {about['export_s']} s, {about['disk_mib']} MiB, loaded in {load_ms} ms")
        yield ExportedEngine(engine, about)


def _export(bundle: Bundle, folder: Path, precision: str) -> dict[str, Any]:
    try:
        from export.folder import export_bundle
    except ImportError as error:
        raise Refused(f"exporting needs the extra onnx: {error}") from None
    return export_bundle(
        bundle, folder, precision=precision, verify=False, report=lambda *about: note(str(about))
    )


def _beside(bundle: Bundle) -> Path | None:
    """Where gigabytes may lie: beside a bundle in the benchmarks' cache, else the system's place
    for such things."""
    return bundle.path.parent if bundle.path.parent == cache_folder() else None


def _encode_hop(engine: Engine) -> Any:
    """One encode hop of one picture's latents."""
    model = engine.model
    prompts = model.encode_prompts([model.tokens("a small red circle on a plain blue background")])
    latents = engine.runner.tensor(_noise(engine, 1))
    passed = engine.runner.encode(latents, prompts, model.encode_hops[:1], None)
    return engine.runner.host(passed[-1])


def _decode_hop(engine: Engine) -> Any:
    """One decode hop of a source and a target row, attention control and blend words included."""
    model = engine.model
    runner = engine.runner
    source = model.tokens("a small red circle on a plain blue background")
    target = model.tokens("a small green circle on a plain blue background")
    settings = _settings().resolve(engine.default_settings)
    plan = make_plan(source, target, settings, len(model.decode_hops))
    inputs = DecodeInputs(
        latents=runner.tensor(_noise(engine, 2)),
        prompts=model.encode_prompts([source, target]),
        guidance=[[0.0, 7.0]],
        edits=edit_steps([plan], [0], runner.tensor),
        blend=[Blend(runner.tensor(np.array([0])), runner.tensor(np.array([True])))],
    )
    return runner.host(runner.decode(inputs, model.decode_hops[:1], None).latents)


def _settings() -> Any:
    from icd_engine import EditSettings

    return EditSettings(cross_replace=0.8, self_replace=0.8, blend=("circle", "circle"))


def _noise(engine: Engine, rows: int) -> np.ndarray:
    shape = (rows, *engine.latent_shape(engine.bundle.size)[1:])
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and its wall milliseconds."""
    started = time.perf_counter()
    value = call()
    return value, round(1000 * (time.perf_counter() - started), 1)
