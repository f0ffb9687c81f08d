"""`python -m training STAGE`: distils an own Stable Diffusion model into an iCD bundle."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from icd_engine.endings import exit_code
from icd_engine.errors import IcdError
from training import stages
from training.config import read_config
from training.processes import rank

STAGES = {
    "latents": "captioned pictures into the cache of latents: --data",
    "guidance": "guidance distillation: the base's UNet takes w as an input",
    "icd": "consistency distillation of the encode and decode network: LoRA files and a model folder",
    "cycle": "cycle fine-tuning of the encode network, after icd: a second model folder",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """0: done, the path of what was made on stdout. 1: one line on stderr says why not."""
    options = _parser().parse_args(arguments)
    try:
        config = read_config(options.config, options.set)
        if options.stage == "latents":
            stages.latents(config, options.base, options.out, options.data)
            made = options.out / stages.LATENTS
        elif options.stage == "guidance":
            made = stages.guidance(config, options.base, options.out)
        else:
            stage = stages.icd if options.stage == "icd" else stages.cycle
            bundle = stage(config, options.base, options.out, options.teacher)
            made = bundle and bundle.path
    except IcdError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if rank() == 0:
        print(made)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description=(__doc__ or "").split(": ", 1)[1],
        epilog="Many processes: torchrun --nproc-per-node N -m training STAGE ...; stages go on where they stopped.",
    )
    commands = parser.add_subparsers(dest="stage", metavar="STAGE", required=True)
    for name, text in STAGES.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--config", required=True, help="preset (training/configs) or JSON file"
        )
        command.add_argument(
            "--base", type=Path, required=True, help="diffusers folder of the base model"
        )
        command.add_argument(
            "--out", type=Path, required=True, help="the run: cache, checkpoints, logs, bundle"
        )
        command.add_argument(
            "--set", nargs="*", default=[], metavar="NAME=VALUE", help="override: icd.batch=64"
        )
        if name == "latents":
            command.add_argument(
                "--data", required=True, help="folder, CSV, JSONL, .tar shards or world:COUNT"
            )
        if name in ("icd", "cycle"):
            command.add_argument(
                "--teacher",
                type=Path,
                help="guidance-distilled UNet folder (default: the run's own)",
            )
    return parser


if __name__ == "__main__":
    sys.exit(exit_code(main))
