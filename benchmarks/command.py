"""Command lines of the benchmarks: help that ends with examples, mistakes as one line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from benchmarks import record

USAGE = 2


class CommandLine(argparse.ArgumentParser):
    """A parser of argparse that prints examples below its help and no usage beside an error."""

    def __init__(self, prog: str, description: str, examples: Sequence[str]):
        super().__init__(
            prog=prog,
            description=description,
            epilog="\n".join(["Example:", *(f"  {example}" for example in examples)]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        record.complain(f"{message} (see {self.prog} --help)")
        self.exit(USAGE)


def count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def counts(text: str) -> tuple[int, ...]:
    """Several, with commas between."""
    return tuple(count(part) for part in text.split(","))


def add_model(parser: argparse.ArgumentParser) -> None:
    """The options that say which model runs, and where."""
    parser.add_argument(
        "--model",
        default="tiny",
        help="the embedded model tiny, a published one, or a model folder (default: tiny)",
    )
    parser.add_argument(
        "--runner", default="auto", help="how network calls are executed (default: auto)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument(
        "--dtype", default="auto", help="float32, float16 or bfloat16 (default: auto)"
    )
    parser.add_argument(
        "--threads", type=count, metavar="N", help="threads of the CPU (default: torch's choice)"
    )
