"""Trains the embedded model from nothing: `python -m training.tiny [STAGE ...] --folder runs/tiny --workers 2`.

Stages, each resumable and gated on the one before: vae, judge, latents, teacher, guided, icd, bundle.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from icd_engine.networks.unet import UNet
from icd_engine.networks.vae import VAE
from training import tiny_bundle, tiny_distil, tiny_judge, tiny_teacher, tiny_vae
from training.loop import Model, Recipe, device, launch, rank


def averaged(folder: Path, name: str, model: Model) -> Model:
    """The moving average of a finished stage, loaded into `model`."""
    state = torch.load(folder / f"{name}.pt", weights_only=True, map_location="cpu")["averaged"]
    weights = {key.removeprefix("module."): value for key, value in state.items() if key.startswith("module.")}
    model.load_state_dict(weights)
    return model.to(device()).eval()


def vae_of(folder: Path) -> VAE:
    return averaged(folder, "vae", VAE(tiny_vae.CONFIG))


def teacher_of(folder: Path) -> tiny_teacher.Teacher:
    return averaged(folder, "teacher", tiny_teacher.Teacher())


def guided_of(folder: Path) -> UNet:
    return averaged(folder, "guided", UNet(tiny_distil.CONFIG))


def pair_of(folder: Path) -> tiny_distil.Pair:
    return averaged(folder, "icd", tiny_distil.Pair(UNet(tiny_distil.CONFIG)))


def _vae(folder: Path, samples: int | None) -> None:
    tiny_vae.train(folder, _sized(tiny_vae.RECIPE, samples))


def _judge(folder: Path, samples: int | None) -> None:
    judge = tiny_judge.train(folder, _sized(tiny_judge.RECIPE, samples))
    if rank() == 0:
        tiny_judge.save(judge)


def _latents(folder: Path, samples: int | None) -> None:
    tiny_teacher.make_pool(folder, vae_of(folder), samples or tiny_teacher.POOL)


def _teacher(folder: Path, samples: int | None) -> None:
    tiny_teacher.train(folder, _sized(tiny_teacher.RECIPE, samples))


def _guided(folder: Path, samples: int | None) -> None:
    tiny_distil.train_guidance(folder, teacher_of(folder), _sized(tiny_distil.GUIDANCE_RECIPE, samples))


def _icd(folder: Path, samples: int | None) -> None:
    recipe = _sized(tiny_distil.ICD_RECIPE, samples)
    tiny_distil.train_icd(folder, teacher_of(folder), guided_of(folder), recipe)


def _sized(recipe: Recipe, samples: int | None) -> Recipe:
    return recipe if samples is None else replace(recipe, samples=samples)


def _bundle(folder: Path, _: int | None) -> None:
    teacher, card = teacher_of(folder), tiny_bundle.BUNDLE / "README.md"
    text = card.read_text(encoding="utf-8") if card.exists() else "Model card: to be written from measured figures.\n"
    scale = tiny_teacher.Pool(folder).scale
    licence = (tiny_bundle.ROOT / "LICENSE").read_text(encoding="utf-8")
    tiny_bundle.write_tiny(tiny_bundle.BUNDLE, vae_of(folder), scale, teacher, pair_of(folder), text, licence)
    tiny_bundle.write_teacher(tiny_bundle.TEACHERS, teacher.unet)


STAGES: dict[str, Callable[[Path, int | None], None]] = {
    "vae": _vae,
    "judge": _judge,
    "latents": _latents,
    "teacher": _teacher,
    "guided": _guided,
    "icd": _icd,
    "bundle": _bundle,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.tiny", description="Train the embedded model from nothing."
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}; default: all")
    parser.add_argument("--folder", type=Path, default=Path("runs/tiny"), help="checkpoints and logs")
    parser.add_argument("--workers", type=int, default=1, help="single-threaded processes that average gradients")
    parser.add_argument("--samples", type=int, help="train this many samples instead of the recipe's")
    options = parser.parse_args(arguments)
    for stage in options.stages or STAGES:
        if stage not in STAGES:
            parser.error(f"unknown stage {stage!r} (known: {', '.join(STAGES)})")
        launch(STAGES[stage], options.workers, options.folder, options.folder, options.samples)


if __name__ == "__main__":
    main()
