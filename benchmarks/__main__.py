"""`python -m benchmarks WHAT`: runs one benchmark; JSON on stdout where asked for, everything else
on stderr."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.checks import Refused
from icd_engine.errors import IcdError

FAILED = 1
Results = Iterable[dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one benchmark. 0: measured. 1: refused or not loadable, one line on stderr. 2: the
    command line is wrong."""
    options = _parser().parse_args(arguments)
    if options.what == "report":
        from benchmarks import report

        return report.main(options.record)
    if options.threads:
        torch.set_num_threads(options.threads)
    results = []
    try:
        # Compilers and libraries print: stdout is the result's
        with contextlib.redirect_stdout(sys.stderr):
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


# Each benchmark is imported where it is asked for: the operations are measured without an engine.
def _edit(options: argparse.Namespace) -> Results:
    from benchmarks import edit

    return [edit.run(model=options.model, baseline=options.baseline, **_shared(options))]


def _throughput(options: argparse.Namespace) -> Results:
    from benchmarks import throughput

    return throughput.run(model=options.model, batches=options.batches, **_shared(options))


def _onnx(options: argparse.Namespace) -> Results:
    from benchmarks import exports

    return [exports.run_edit(model=options.model, **_shared(options))]


def _export(options: argparse.Namespace) -> Results:
    from benchmarks import exports

    names = ("model", "architecture", "size", "runner", "device", "dtype")
    return [exports.run_export(**{name: getattr(options, name) for name in names})]


def _published(options: argparse.Namespace) -> Results:
    from benchmarks import published

    options.architecture = options.architecture or "sd15"
    names = ("architecture", "size", "runner", "device", "dtype")
    return published.run(**{name: getattr(options, name) for name in names})


def _distil(options: argparse.Namespace) -> Results:
    from benchmarks import distil

    options.architecture = options.architecture or "sd15"
    names = ("architecture", "size", "repeats", "only")
    return distil.run(**{name: getattr(options, name) for name in names})


def _load(options: argparse.Namespace) -> Results:
    from benchmarks import load

    names = ("model", "runner", "device", "dtype", "seconds")
    return [load.run(**{name: getattr(options, name) for name in names})]


def _batch(options: argparse.Namespace) -> Results:
    from benchmarks import batch

    names = ("model", "runner", "device", "dtype", "pictures")
    return [batch.run(**{name: getattr(options, name) for name in names})]


def _networks(options: argparse.Namespace) -> Results:
    from benchmarks import networks

    options.architecture = options.architecture or "sd15"
    return networks.run(options.what, **_shared(options))


def _ops(options: argparse.Namespace) -> Results:
    from benchmarks import ops

    chosen = {"device": options.device, "dtype": options.dtype, "repeats": options.repeats}
    return ops.run(
        only=options.only, quick=options.quick, compiled=not options.no_compile, **chosen
    )


RUNS: dict[str, Callable[[argparse.Namespace], Results]] = {
    "edit": _edit,
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
}


SINGLE = ("edit", "onnx", "export", "load", "batch")  # benchmarks of one result


def _device(name: str) -> torch.device:
    from icd_engine.loading import choose_device

    return choose_device(name)


def _shared(options: argparse.Namespace) -> dict[str, Any]:
    names = ("architecture", "size", "runner", "device", "dtype", "repeats", "warmup")
    return {name: getattr(options, name) for name in names}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("what", choices=[*RUNS, "report"])
    parser.add_argument(
        "--model", default="tiny", help="the embedded model tiny, or a model folder"
    )
    parser.add_argument(
        "--architecture", help="random weights in a published shape instead: sd15, sdxl, small"
    )
    parser.add_argument("--size", type=_count, help="side of the pictures in pixels")
    parser.add_argument(
        "--baseline",
        choices=("reference", "lean", "compiled"),
        help="what to compare the edit with, in the same run",
    )
    parser.add_argument("--runner", default="auto", help="how network calls are executed")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument(
        "--threads", type=_count, help="of torch on the CPU (default: torch's choice)"
    )
    parser.add_argument("--repeats", type=_count, default=10)
    parser.add_argument(
        "--warmup", type=int, help="unmeasured calls before (default: 2 on the CPU, 5 on CUDA)"
    )
    parser.add_argument(
        "--batches", type=_counts, default=(1, 2, 4, 8, 16), help="of throughput: 1,2,4,8,16"
    )
    parser.add_argument("--only", help="of ops: one operation; of distil: one stage")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="of load: how long the flood is"
    )
    parser.add_argument(
        "--pictures", type=_count, default=500, help="of batch: rows of the manifest"
    )
    parser.add_argument(
        "--quick", action="store_true", help="of ops: small shapes, to see that it runs"
    )
    parser.add_argument("--no-compile", action="store_true", help="of ops: leave torch.compile out")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--record",
        type=Path,
        nargs="?",
        const=record.RESULTS,
        metavar="FOLDER",
        help="append to FOLDER/<device>.jsonl (default: benchmarks/results)",
    )
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.split(","))


def _line(what: str, result: dict[str, Any]) -> str:
    """The numbers of a result in one line for people; stages, floors and peaks are for the
    record."""
    shown = {name: value for name, value in result.items() if not isinstance(value, dict | list)}
    shown |= {f"difference of {name}": value for name, value in result.get("agreement", {}).items()}
    return f"{what}: " + ", ".join(
        f"{name} {value}" for name, value in shown.items() if value is not None
    )


if __name__ == "__main__":
    sys.exit(main())
