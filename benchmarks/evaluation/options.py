"""The command line of `icd eval`: what is edited, by which methods, and what looks at it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command import CommandLine, add_model, count
from benchmarks.evaluation.features import FIGURES
from benchmarks.evaluation.methods import METHODS
from benchmarks.evaluation.tasks import PUBLISHED_SCALES, InstructScales

ROOT = Path(__file__).resolve().parents[2]
TEACHER = ROOT / "training" / "tiny" / "teacher_weights"
INSTRUCT = ROOT / "training" / "tiny" / "instruct_weights"
INSTRUCT_SCALES = InstructScales(3.0, 1.5)  # of the embedded model: best of three on seed 100
SUITES = ("tiny", "pie", "pairs", "generate")
EXAMPLES = (
    "icd eval --suite tiny --json",
    "icd eval --suite tiny --count 24 --methods all --out out/methods",
    "icd eval --suite pie --path PIE-Bench_v1 --model icd-sd15 --clip clip-vit-large-patch14 "
    "--dino dino-vitb8",
    "icd eval --suite generate --path prompts.txt",
)


def parser() -> argparse.ArgumentParser:
    """The parser of `python -m benchmarks.evaluation`."""
    parser = CommandLine(
        "icd eval",
        "Edit a suite of pictures, measure the edits, compare with other methods. Writes a table,\n"
        "results.json and one self-contained page. An interrupted run goes on where it stopped;\n"
        "another run in the same folder starts anew. Weights of metrics are never downloaded:\n"
        "those not given leave n/a. The same as `python -m benchmarks.evaluation`.",
        EXAMPLES,
    )
    parser.add_argument(
        "--suite",
        choices=SUITES,
        default="tiny",
        help="what is edited or generated (default: tiny)",
    )
    parser.add_argument(
        "--path",
        type=Path,
        help="PIE-Bench's folder; a CSV of pairs; a CSV of prompts, or one a line",
    )
    parser.add_argument(
        "--count", type=count, default=100, metavar="N", help="most items (default: 100)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=2025,
        metavar="N",
        help="seed of the drawn scenes and generated pictures (default: 2025)",
    )
    add_model(parser)
    _add_methods(parser)
    _add_weights(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/eval"),
        metavar="FOLDER",
        help="folder of rows, results.json and report.html; an unfinished run there goes on (default: out/eval)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    return parser


def _add_methods(parser: argparse.ArgumentParser) -> None:
    """What edits, and how."""
    parser.add_argument(
        "--methods",
        default="icd",
        metavar="NAME,...",
        help="comma-separated: icd, icd-plain, icd-paper, icd-masked (with the suite's masks), "
        f"icd-unprompted (without source prompts), {', '.join(METHODS)}, or all (default: icd)",
    )
    parser.add_argument(
        "--settings",
        default="{}",
        metavar="JSON",
        help="settings of icd (default: the model's own)",
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        default=TEACHER,
        metavar="FOLDER",
        help="undistilled UNet that the other methods use (default: tiny's)",
    )
    add_instructed(parser)


def add_instructed(parser: argparse.ArgumentParser) -> None:
    """What ip2p runs on, and how."""
    parser.add_argument(
        "--ip2p",
        type=Path,
        metavar="FOLDER",
        help="InstructPix2Pix's UNet, for the method ip2p (default: tiny's, for its own suite)",
    )
    parser.add_argument(
        "--ip2p-scales",
        type=float,
        nargs=2,
        metavar=("TEXT", "PICTURE"),
        help="its two guidance scales, 1 is unguided "
        f"(default: {PUBLISHED_SCALES.text} {PUBLISHED_SCALES.picture} as published; "
        f"tiny's {INSTRUCT_SCALES.text} {INSTRUCT_SCALES.picture})",
    )


def instructed(
    folder: Path | None, scales: Sequence[float] | None, of_the_world: bool
) -> tuple[Path | None, InstructScales]:
    """UNet folder and guidance of ip2p as asked for, or by default; None where there is none."""
    if folder is None and of_the_world:
        folder = INSTRUCT
    own = INSTRUCT_SCALES if folder == INSTRUCT else PUBLISHED_SCALES
    return folder, own if scales is None else InstructScales(*scales)


def _add_weights(parser: argparse.ArgumentParser) -> None:
    """What metrics look through, and the studies a claim is looked up in."""
    for name, figures in FIGURES.items():
        kind = "backbone file of torchvision" if name == "lpips" else "model folder"
        parser.add_argument(
            f"--{name}", type=Path, metavar="PATH", help=f"{kind}, for {', '.join(figures)}"
        )
    parser.add_argument(
        "--studies",
        type=Path,
        metavar="FILE",
        help="JSON that benchmarks.evaluation.studies printed, in place of the recorded one",
    )
