"""`python -m benchmarks WHAT`: runs one benchmark; JSON on stdout where asked for, everything else
on stderr."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.checks import Refused
from benchmarks.options import parser
from icd_engine.endings import exit_code
from icd_engine.errors import IcdError

FAILED = 1
Results = Iterable[dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one benchmark. 0: measured. 1: refused or not loadable, one line on stderr. 2: the
    command line is wrong."""
    options = parser([*RUNS]).parse_args(arguments)
    if options.what == "report":
        from benchmarks import report

        return report.main(options.record)
    if options.threads:
        torch.set_num_threads(options.threads)
        os.environ["OMP_NUM_THREADS"] = str(options.threads)  # OpenVINO's and onnxruntime's
    torch.backends.cudnn.benchmark = options.cudnn_benchmark
    results = []
    try:
        # Compilers and libraries print: stdout is the result's
        with contextlib.redirect_stdout(sys.stderr), _compiled_code(options):
            device = _device(options.device)
            where = record.environment(device)
            for result in RUNS[options.what](options):  # kept one by one: a run may be cut short
                results.append(result)
                record.note(_line(options.what, result))
                # The device has just been busy: not those of its sleep
                where["clocks"] = record.clocks(device)
                if options.record is not None:
                    record.append(options.record, options.what, result, where)
    except (IcdError, Refused) as error:
        record.complain(str(error), red=isinstance(error, Refused))
        return FAILED
    if options.json:
        shown = results[0] if options.what in SINGLE else {"results": results}
        print(json.dumps({"benchmark": options.what, **where, **shown}), flush=True)
    return 0


@contextlib.contextmanager
def _compiled_code(options: argparse.Namespace) -> Iterator[None]:
    """Inside, compiled code is taken from --compile-cache; what is compiled is kept there, of a run
    that is cut short too."""
    from benchmarks import compiled_code

    folder = options.compile_cache
    if folder is None:
        yield
        return
    compiled_code.load(folder)
    subject = options.architecture or Path(options.model).name
    name = record.slug(f"{options.what} {subject} {options.size or ''} {options.compile}")
    try:
        yield
    finally:
        compiled_code.save(folder, name)


# Each benchmark is imported where it is asked for: the operations are measured without an engine.
def _edit(options: argparse.Namespace) -> Results:
    from benchmarks import edit

    chosen = {"model": options.model, "compile": options.compile, "baseline": options.baseline}
    return [edit.measure_edit(**chosen, **_shared(options))]


def _first(options: argparse.Namespace) -> Results:
    from benchmarks import first

    names = ("model", "architecture", "size", "runner", "device", "dtype", "repeats")
    return [first.measure_first(**{name: getattr(options, name) for name in names})]


def _throughput(options: argparse.Namespace) -> Results:
    from benchmarks import throughput

    return throughput.measure_throughput(
        model=options.model,
        batches=options.batches,
        compile=options.compile,
        **_shared(options),
    )


def _onnx(options: argparse.Namespace) -> Results:
    from benchmarks import exports

    return [exports.measure_onnx(model=options.model, **_shared(options))]


def _export(options: argparse.Namespace) -> Results:
    from benchmarks import exports

    names = ("model", "architecture", "size", "runner", "device", "dtype")
    return [exports.measure_export(**{name: getattr(options, name) for name in names})]


def _published(options: argparse.Namespace) -> Results:
    from benchmarks import published

    options.architecture = options.architecture or "sd15"
    names = ("architecture", "size", "runner", "device", "dtype", "only")
    return published.measure_published(**{name: getattr(options, name) for name in names})


def _distil(options: argparse.Namespace) -> Results:
    from benchmarks import distil

    options.architecture = options.architecture or "sd15"
    names = ("architecture", "size", "repeats", "only")
    return distil.measure_stages(**{name: getattr(options, name) for name in names})


def _load(options: argparse.Namespace) -> Results:
    from benchmarks import load

    names = ("model", "runner", "device", "dtype", "seconds", "idle")
    return [load.measure_load(**{name: getattr(options, name) for name in names})]


def _batch(options: argparse.Namespace) -> Results:
    from benchmarks import batch

    names = ("model", "runner", "device", "dtype", "pictures")
    return [batch.measure_batch(**{name: getattr(options, name) for name in names})]


def _networks(options: argparse.Namespace) -> Results:
    from benchmarks import networks

    options.architecture = options.architecture or "sd15"
    return networks.measure_networks(options.what, baseline=options.baseline, **_shared(options))


def _ops(options: argparse.Namespace) -> Results:
    from benchmarks import ops

    chosen = {"device": options.device, "dtype": options.dtype, "repeats": options.repeats}
    return ops.measure_ops(
        only=options.only, quick=options.quick, compiled=not options.no_compile, **chosen
    )


def _bundle(options: argparse.Namespace) -> Results:
    from benchmarks import subject

    return [subject.measure_bundle(options.architecture or "sd15", options.size)]


def _profile(options: argparse.Namespace) -> Results:
    from benchmarks import profiling

    names = ("model", "architecture", "size", "runner", "device", "dtype", "compile", "warmup")
    given = {name: getattr(options, name) for name in names}
    return [profiling.measure_profile(folder=options.record, **given)]


def _backends(options: argparse.Namespace) -> Results:
    from benchmarks import backends

    names = ("only", "device", "dtype", "repeats", "quick")
    given = {name: getattr(options, name) for name in names}
    return backends.measure_backends(folder=options.record, **given)


def _eight_bit(options: argparse.Namespace) -> Results:
    from benchmarks import eight_bit

    names = ("model", "architecture", "size", "device", "repeats")
    return eight_bit.measure_eight_bits(**{name: getattr(options, name) for name in names})


RUNS: dict[str, Callable[[argparse.Namespace], Results]] = {
    "edit": _edit,
    "first": _first,
    "throughput": _throughput,
    "onnx": _onnx,
    "export": _export,
    "published": _published,
    "distil": _distil,
    "load": _load,
    "batch": _batch,
    "ops": _ops,
    "unet": _networks,
    "vae": _networks,
    "bundle": _bundle,
    "profile": _profile,
    "backends": _backends,
    "fp8": _eight_bit,
}


SINGLE = (
    "edit",
    "first",
    "onnx",
    "export",
    "load",
    "batch",
    "bundle",
    "profile",
)  # benchmarks of one result


def _device(name: str) -> torch.device:
    from icd_engine.loading import choose_device

    return choose_device(name)


def _shared(options: argparse.Namespace) -> dict[str, Any]:
    names = ("architecture", "size", "runner", "device", "dtype", "repeats", "warmup")
    return {name: getattr(options, name) for name in names}


def _line(what: str, result: dict[str, Any]) -> str:
    """The numbers of a result in one line for people; stages, floors and peaks are for the
    record."""
    shown = {name: value for name, value in result.items() if not isinstance(value, dict | list)}
    shown |= {f"difference of {name}": value for name, value in result.get("agreement", {}).items()}
    return f"{what}: " + ", ".join(
        f"{name} {value}" for name, value in shown.items() if value is not None
    )


if __name__ == "__main__":
    sys.exit(exit_code(main))
