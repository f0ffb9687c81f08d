"""The model card of the embedded bundle, from measured figures; `python -m training.tiny bundle`
then seals it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.tiny.bundle import BUNDLE
from training.world.scenes import WORDS

TEMPLATE = Path(__file__).with_suffix(".md")


def table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """One row for each kind of edit."""
    return "\n".join(
        f"| {kind} | {row['reconstruction_psnr']:.1f} | {row['background_psnr']:.1f} | {row['psnr_to_truth']:.1f} | "
        f"{100 * row['changed_share']:.0f} % |"
        for kind, row in figures.items()
    )


def card(report: Mapping[str, Any], machine: str, cost: str) -> str:
    """The card of a report of `training.world.quality`."""
    words = "\n".join(f"* {kind}: {', '.join(values)}" for kind, values in WORDS.items())
    command = f"python -m training.world.quality --pairs {report['pairs']} --seed {report['seed']}"
    return TEMPLATE.read_text(encoding="utf-8").format(
        words=words,
        machine=machine,
        cost=cost,
        command=command,
        pairs=report["pairs"],
        seed=report["seed"],
        rows=table(report["figures"]),
        **report["inversion_psnr"],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.tiny.card", description="Write the model card."
    )
    parser.add_argument(
        "--report", type=Path, required=True, help="what `python -m training.world.quality` printed"
    )
    parser.add_argument("--machine", required=True)
    parser.add_argument("--cost", default="", help="a sentence on what the training cost")
    parser.add_argument("--notes", type=Path, help="text to append: what falls short and why")
    options = parser.parse_args(arguments)
    text = card(
        json.loads(options.report.read_text(encoding="utf-8")), options.machine, options.cost
    )
    if options.notes:
        text += "\n" + options.notes.read_text(encoding="utf-8")
    (BUNDLE / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
