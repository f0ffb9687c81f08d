"""`python -m benchmarks WHAT`: runs one benchmark; JSON on stdout where asked for, everything else
on stderr."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.checks import Refused
from benchmarks.command import CommandLine, add_model, count, counts
from icd_engine.endings import exit_code
from icd_engine.errors import IcdError

FAILED = 1
EXAMPLES = (
    "icd bench edit --model tiny --baseline reference --json",
    "icd bench edit --architecture sd15 --size 512 --repeats 3",
    "icd bench ops",
)
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
        os.environ["OMP_NUM_THREADS"] = str(options.threads)  # OpenVINO's and onnxruntime's
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

    return [edit.measure_edit(model=options.model, baseline=options.baseline, **_shared(options))]


def _throughput(options: argparse.Namespace) -> Results:
    from benchmarks import throughput

    return throughput.measure_throughput(
        model=options.model, batches=options.batches, **_shared(options)
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
    names = ("architecture", "size", "runner", "device", "dtype")
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
    return networks.measure_networks(options.what, **_shared(options))


def _ops(options: argparse.Namespace) -> Results:
    from benchmarks import ops

    chosen = {"device": options.device, "dtype": options.dtype, "repeats": options.repeats}
    return ops.measure_ops(
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
    parser = CommandLine(
        "icd bench",
        "Measure the engine on this machine. Results are checked first and refused where they are "
        "wrong.\nNumbers for people go to stderr. The same as `python -m benchmarks`.",
        EXAMPLES,
    )
    parser.add_argument("what", choices=[*RUNS, "report"], help="what to measure")
    _add_subject(parser)
    _add_measurement(parser)
    only = parser.add_argument_group("options of single benchmarks")
    only.add_argument(
        "--baseline",
        choices=("reference", "lean", "compiled", "openvino"),
        help="diffusers' modules that edit measures beside the engine, in the same run",
    )
    only.add_argument(
        "--batches",
        type=counts,
        default=(1, 2, 4, 8, 16),
        metavar="N,...",
        help="batch sizes that throughput measures (default: 1,2,4,8,16)",
    )
    only.add_argument("--only", metavar="NAME", help="one operation (ops) or one stage (distil)")
    only.add_argument(
        "--quick", action="store_true", help="small shapes for ops, to see that it runs"
    )
    only.add_argument("--no-compile", action="store_true", help="leave torch.compile out of ops")
    only.add_argument(
        "--seconds", type=float, default=20.0, help="length of load's flood, s (default: 20)"
    )
    only.add_argument(
        "--idle",
        type=int,
        default=0,
        metavar="N",
        help="clients of load that begin an upload and send nothing more (default: 0)",
    )
    only.add_argument(
        "--pictures",
        type=count,
        default=500,
        metavar="N",
        help="rows of batch's manifest (default: 500)",
    )
    return parser


def _add_subject(parser: argparse.ArgumentParser) -> None:
    """What is measured, and where it runs."""
    add_model(parser)
    parser.add_argument(
        "--architecture",
        metavar="NAME",
        help="random weights in a published shape instead of a model: sd15, sdxl, small, small-xl "
        "(default of unet, vae, published and distil: sd15)",
    )
    parser.add_argument(
        "--size",
        type=count,
        metavar="PIXELS",
        help="side of the pictures (default: the model's own)",
    )


def _add_measurement(parser: argparse.ArgumentParser) -> None:
    """How often, and where results go."""
    parser.add_argument(
        "--repeats",
        type=count,
        default=10,
        metavar="N",
        help="measured calls of each subject (default: 10)",
    )
    parser.add_argument(
        "--warmup",
        type=int,
        metavar="N",
        help="unmeasured calls before the measured ones (default: 2 on the CPU, 5 on CUDA)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument(
        "--record",
        type=Path,
        nargs="?",
        const=record.RESULTS,
        metavar="FOLDER",
        help="append the results to FOLDER/<device>.jsonl (without FOLDER: benchmarks/results)",
    )


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
