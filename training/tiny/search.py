"""Tries default settings for the embedded model: `python -m training.tiny.search --pairs 24 --seed
100`.

Every distinct combination of step counts and the guidance that matters, ranked by the worst margin
to the targets.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from icd_engine import Engine
from training.world.pairs import command_line, sample_pairs
from training.world.quality import run_edits, summary

CROSS = (0.0, 0.2, 0.4, 0.6, 0.8)  # 0, 1, 2, 3, 4 of four decode hops
SELF = (0.0, 0.25, 0.5, 0.75)  # 0, 1, 2, 3
TAU = (0.7, 0.8)  # two or one unguided hops
GUIDANCE = (2.0, 4.0, 6.0)
TARGETS = {"background_psnr": 25.0, "psnr_to_truth": 22.0, "changed_share": 0.9}


def margin(figures: dict[str, float]) -> float:
    """The smallest distance above its target, in dB; a percent of changed pixels counts as half a
    decibel."""
    scale = {"changed_share": 50.0}
    return min((figures[name] - target) * scale.get(name, 1.0) for name, target in TARGETS.items())


def main(arguments: Sequence[str] | None = None) -> None:
    description = "Try default settings for the embedded model."
    parser = command_line("training.tiny.search", description, pairs=24, seed=100)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny/search.jsonl"))
    options = parser.parse_args(arguments)
    engine = Engine.from_pretrained(options.model)
    pairs = sample_pairs(options.pairs, options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for cross, own, tau, w in product(CROSS, SELF, TAU, GUIDANCE):
        settings = {"cross_replace": cross, "self_replace": own, "tau": tau, "guidance_scale": w}
        figures = summary(pairs, run_edits(engine, pairs, settings))
        rows.append((margin(figures["all"]), settings, figures))
        with options.out.open("a") as file:
            file.write(
                json.dumps({"margin": rows[-1][0], "settings": settings, "figures": figures}) + "\n"
            )
    for score, settings, figures in sorted(rows, key=lambda row: row[0], reverse=True)[:10]:
        print(f"{score:7.2f}", settings, figures["all"])


if __name__ == "__main__":
    main()
