"""The embedded model from nothing, up to what distillation starts from: `python -m training.tiny
--folder runs/tiny`.

Stages, each resumable and gated on the one before: vae, judge, latents, teacher, base (a diffusers
folder). Then `python -m training guidance` and `icd` with the configuration `tiny`, and here
`edits` and `decoder`, which make the VAE's decoder crisper, and `bundle`, which seals the package's
own. Where the folder holds no bundle, `edits`, `decoder` and `bundle` go on from the package's.
`instruct` trains an InstructPix2Pix for comparisons, from the shipped teacher.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from icd_engine import Engine
from icd_engine.bundles.bundle import Bundle, read_bundle
from icd_engine.networks.vae import VAE
from training import stages
from training.checkpoint import trained
from training.latents import Latents
from training.processes import channels_last, processes, rank
from training.recipe import Recipe
from training.tiny import bundle, decoder, instruct, judge, teacher, vae
from training.tiny.edits import EDITS, EditPool, make_edits


def vae_of(folder: Path) -> VAE:
    return channels_last(trained(folder / "vae.safetensors", VAE(vae.CONFIG)))


def teacher_of(folder: Path) -> teacher.Teacher:
    return trained(folder / "teacher.safetensors", teacher.Teacher())


def distilled(folder: Path) -> Bundle:
    """The bundle of the folder's distillation, or the one the package ships."""
    own = folder / stages.BUNDLE
    return read_bundle(own if own.is_dir() else "tiny")


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


def _edits(folder: Path, samples: int | None) -> None:
    if rank() == 0:
        engine = Engine.from_pretrained(distilled(folder).path, dtype="float32")
        make_edits(folder / "edits", engine, samples or EDITS)


def _decoder(folder: Path, samples: int | None) -> None:
    start = channels_last(bundle.read_vae(distilled(folder)))
    decoder.train(folder, start, EditPool(folder / "edits"), _sized(decoder.RECIPE, samples))


def _bundle(folder: Path, _: int | None) -> None:
    """Seals what the folder has; the rest of the package's own stays."""
    if rank():
        return
    start = distilled(folder)
    crisper = None
    if (folder / "decoder.safetensors").exists():
        crisper = trained(folder / "decoder.safetensors", decoder.freeze(bundle.read_vae(start)))
    bundle.write_tiny(bundle.BUNDLE, start, crisper)
    if (folder / "teacher.safetensors").exists():
        bundle.write_unet(bundle.TEACHERS, teacher.CONFIG, teacher_of(folder).unet)
    if (folder / judge.WEIGHTS.name).exists():
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
    "edits": _edits,
    "decoder": _decoder,
    "bundle": _bundle,
    "instruct": _instruct,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.tiny", description="Train the embedded model from nothing."
    )
    parser.add_argument(
        "stages",
        nargs="*",
        metavar="STAGE",
        help=f"stages to run: {', '.join(STAGES)} (default: vae to base)",
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
    for stage in options.stages or list(STAGES)[: list(STAGES).index("base") + 1]:
        STAGES[stage](options.folder, options.samples)
        processes().wait_for_everyone()


if __name__ == "__main__":
    main()
