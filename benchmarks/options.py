"""The options of `icd bench`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks import record
from benchmarks.command import CommandLine, add_model, count, counts
from icd_engine.placement import COMPILE

EXAMPLES = (
    "icd bench edit --model tiny --baseline reference --json",
    "icd bench edit --architecture sd15 --size 512 --repeats 3",
    "icd bench ops",
)


def parser(benchmarks: Sequence[str]) -> argparse.ArgumentParser:
    """Of the benchmarks that are there, and "report"."""
    parser = CommandLine(
        "icd bench",
        "Measure the engine on this machine. Results are checked first and refused where they are "
        "wrong.\nNumbers for people go to stderr. The same as `python -m benchmarks`.",
        EXAMPLES,
    )
    parser.add_argument("what", choices=[*benchmarks, "report"], help="what to measure")
    _add_subject(parser)
    _add_tuning(parser)
    _add_measurement(parser)
    only = parser.add_argument_group("options of single benchmarks")
    only.add_argument(
        "--baseline",
        choices=("reference", "lean", "compiled", "openvino", "stable-diffusion.cpp"),
        help="what is measured beside the engine, in the same run: diffusers' modules of edit, or "
        "stable-diffusion.cpp of unet and vae",
    )
    only.add_argument(
        "--batches",
        type=counts,
        default=(1, 2, 4, 8, 16),
        metavar="N,...",
        help="batch sizes that throughput measures (default: 1,2,4,8,16)",
    )
    only.add_argument(
        "--only",
        metavar="NAME",
        help="one operation (ops), table (backends), stage (distil) or memory mode (published)",
    )
    only.add_argument(
        "--quick",
        action="store_true",
        help="small shapes for ops and backends, to see that they run",
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


def _add_tuning(parser: argparse.ArgumentParser) -> None:
    """How code for CUDA is made, and kept."""
    parser.add_argument(
        "--compile",
        choices=COMPILE,
        default="cheap",
        help="how far edit, throughput and profile tune code for CUDA (default: cheap)",
    )
    parser.add_argument(
        "--compile-cache",
        type=Path,
        metavar="FOLDER",
        help="take compiled code from FOLDER, and keep there what is compiled",
    )
    parser.add_argument(
        "--cudnn-benchmark",
        action="store_true",
        help="have cuDNN time its kernels for every new convolution",
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
