"""The embedded model from nothing, up to what distillation starts from: `python -m training.tiny
--folder runs/tiny`.

Stages, each resumable and gated on the one before: vae, judge, latents, teacher, base (a diffusers
folder). Then `python -m training guidance` and `icd` with the configuration `tiny`, and here
`bundle`, which seals the package's own. `instruct` trains an InstructPix2Pix for comparisons, from
the shipped teacher.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from icd_engine.bundles.bundle import read_bundle
from icd_engine.networks.vae import VAE
from training import stages
from training.checkpoint import trained
from training.latents import Latents
from training.processes import channels_last, processes, rank
from training.recipe import Recipe
from training.tiny import bundle, instruct, judge, teacher, vae


def vae_of(folder: Path) -> VAE:
    return channels_last(trained(folder / "vae.safetensors", VAE(vae.CONFIG)))


def teacher_of(folder: Path) -> teacher.Teacher:
    return trained(folder / "teacher.safetensors", teacher.Teacher())


def _vae(folder: Path, samples: int | None) -> None:
    vae.train(folder, _sized(vae.RECIPE, samples))


def _judge(folder: Path, samples: int | None) -> None:
    trained_judge = judge.train(folder, _sized(judge.RECIPE, samples))
    if rank() == 0:
        judge.write_judge(trained_judge, folder / judge.WEIGHTS.name)


def _latents(folder: Path, samples: int | None) -> None:
    teacher.make_latents(folder / stages.LATENTS, vae_of(folder), samples or teacher.SCENES)


def _teacher(folder: Path, samples: int | None) -> None:
    teacher.train(folder, folder / stages.LATENTS, _sized(teacher.RECIPE, samples))


def _base(folder: Path, _: int | None) -> None:
    if rank() == 0:
        scale = teacher.latent_scale(Latents(folder / stages.LATENTS))
        bundle.write_base(folder / "base", vae_of(folder), scale, teacher_of(folder))


def _bundle(folder: Path, _: int | None) -> None:
    if rank():
        return
    bundle.write_tiny(bundle.BUNDLE, read_bundle(folder / stages.BUNDLE))
    bundle.write_unet(bundle.TEACHERS, teacher.CONFIG, teacher_of(folder).unet)
    judge.write_judge(judge.read_judge(folder / judge.WEIGHTS.name))


def _instruct(folder: Path, samples: int | None) -> None:
    unet = instruct.train(folder, _sized(instruct.RECIPE, samples))
    if rank() == 0:
        bundle.write_unet(bundle.INSTRUCT, instruct.CONFIG, unet)


def _sized(recipe: Recipe, samples: int | None) -> Recipe:
    return recipe if samples is None else replace(recipe, samples=samples)


STAGES: dict[str, Callable[[Path, int | None], None]] = {
    "vae": _vae,
    "judge": _judge,
    "latents": _latents,
    "teacher": _teacher,
    "base": _base,
    "bundle": _bundle,
    "instruct": _instruct,
}
ON_REQUEST = ("bundle", "instruct")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.tiny", description="Train the embedded model from nothing."
    )
    parser.add_argument(
        "stages",
        nargs="*",
        metavar="STAGE",
        help=f"stages to run: {', '.join(STAGES)} (default: all but {' and '.join(ON_REQUEST)})",
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/tiny"), help="checkpoints, logs, cache and base"
    )
    parser.add_argument(
        "--samples", type=int, help="train this many samples instead of the recipe's"
    )
    options = parser.parse_args(arguments)
    for stage in options.stages:
        if stage not in STAGES:
            parser.error(f"unknown stage {stage!r} (known: {', '.join(STAGES)})")
    for stage in options.stages or [name for name in STAGES if name not in ON_REQUEST]:
        STAGES[stage](options.folder, options.samples)
        processes().wait_for_everyone()


if __name__ == "__main__":
    main()
