"""Many edits in a row: `python -m benchmarks.evaluation.turns`, JSON on stdout.

A picture is edited again and again, each time what came out before. The colour word changes every
turn and the background never, so all that the background loses is the method's. `icd-masked` edits
under the exact mask and pastes the picture's own pixels back outside of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks import record
from benchmarks.command import CommandLine, count
from benchmarks.evaluation.choosing import Networks, chosen
from benchmarks.evaluation.methods import METHODS
from benchmarks.evaluation.metrics import outside_equal, psnr
from benchmarks.evaluation.options import TEACHER, add_instructed, instructed
from benchmarks.evaluation.run import Method, means
from benchmarks.evaluation.shift import shift
from benchmarks.evaluation.suites import Item, Metric, judged
from icd_engine.engine import Engine
from icd_engine.errors import IcdError
from training.world.drawing import draw
from training.world.pairs import change_mask
from training.world.scenes import Scene, parse_caption, sample_scene

KIND = "color"
EXAMPLES = (
    "python -m benchmarks.evaluation.turns --count 4",
    "python -m benchmarks.evaluation.turns --methods icd,icd-masked,ddim+p2p --turns 5",
)
Rows = list[dict[str, Any]]


class Walk(NamedTuple):
    """A scene and what it is to become turn by turn; mask: bool [128, 128], true wherever one of
    them differs from the scene."""

    scenes: list[Scene]
    mask: np.ndarray

    @property
    def picture(self) -> np.ndarray:
        return draw(self.scenes[0])

    def item(self, turn: int, picture: np.ndarray) -> Item:
        """The edit of one turn, from 1, of what the turn before has made."""
        before, after = self.scenes[turn - 1 : turn + 1]
        return Item(
            f"turn {turn}",
            KIND,
            before.caption,
            after.caption,
            lambda: picture,
            draw(after),
            self.mask,
            parse_caption(after.caption),
        )


def walk(seed: int, index: int, turns: int) -> Walk:
    """A random scene whose colour changes `turns` times."""
    rng = np.random.default_rng([seed, index])
    scenes = [sample_scene(rng)]
    for _ in range(turns):
        words = scenes[-1].alternatives(KIND)
        scenes.append(replace(scenes[-1], color=words[rng.integers(len(words))]))
    first, *later = map(draw, scenes)
    mask = np.zeros(first.shape[:2], dtype=bool)
    for picture in later:
        mask |= change_mask(first, picture)
    return Walk(scenes, mask)


def edited_in_turn(path: Walk, method: Method, success: Metric) -> Rows:
    """Figures after every turn, all against the first picture outside of the mask."""
    first = path.picture
    picture = first
    rows: Rows = []
    for turn in range(1, len(path.scenes)):
        item = path.item(turn, picture)
        made = method(item)
        picture = made.edited
        rows.append(
            {
                "background_psnr": psnr(picture, first, ~path.mask),
                "background_shift": shift(picture, first, ~path.mask),
                "background_equal": outside_equal(picture, first, path.mask),
                "edit_success": success(item, made)["edit_success"],
                "network_calls": made.calls,
            }
        )
    return rows


def turns(walks: Sequence[Walk], methods: dict[str, Method]) -> Rows:
    """A row for each method and turn: means over the walks."""
    success = judged()
    found: Rows = []
    for name, method in methods.items():
        record.note(f"{name}, {len(walks)} pictures")
        runs = [edited_in_turn(path, method, success) for path in walks]
        for turn, rows in enumerate(zip(*runs, strict=True), start=1):
            found.append({"method": name, "turn": turn} | means(rows))
    return found


def parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        "python -m benchmarks.evaluation.turns",
        "Edit pictures of the embedded model's world many times in a row, and say by turn what is\n"
        "left of their backgrounds.",
        EXAMPLES,
    )
    parser.add_argument("--count", type=count, default=8, metavar="N", help="pictures (default: 8)")
    parser.add_argument("--turns", type=count, default=10, metavar="N", help="edits (default: 10)")
    parser.add_argument("--seed", type=int, default=2026, metavar="N", help="(default: 2026)")
    parser.add_argument("--model", default="tiny", help="model folder (default: tiny)")
    parser.add_argument(
        "--methods",
        default="icd,icd-masked," + ",".join(METHODS),
        metavar="NAME,...",
        help="comma-separated, as of icd eval (default: all)",
    )
    parser.add_argument(
        "--teacher", type=Path, default=TEACHER, metavar="FOLDER", help="as of icd eval"
    )
    add_instructed(parser)
    parser.add_argument("--threads", type=count, metavar="N", help="threads of the CPU")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """0: measured. 1: one line on stderr says why not."""
    options = parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    walks = [walk(options.seed, index, options.turns) for index in range(options.count)]
    try:
        engine = Engine.from_pretrained(options.model, runner="eager")
        networks = Networks(
            options.teacher, *instructed(options.ip2p, options.ip2p_scales, of_the_world=True)
        )
        found = turns(walks, chosen(engine, options.methods, networks, {}))
    except IcdError as error:
        record.complain(str(error))
        return 1
    about = {
        "model": Path(options.model).name,
        "count": options.count,
        "seed": options.seed,
        "where": record.environment(torch.device(engine.runner.device)),
    }
    print(json.dumps(about | {"turns": found}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
