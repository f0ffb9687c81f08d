"""The stages of a distillation, each resumable, each from what the one before left in the run's
folder."""

from __future__ import annotations

from pathlib import Path

import torch

from icd_engine.bundles.bundle import Bundle
from icd_engine.bundles.convert import convert
from icd_engine.errors import SettingsError
from training import distil
from training.base import Base, load_unet
from training.batches import CachedData
from training.checks import icd_check
from training.choices import Chain
from training.config import TrainingConfig
from training.latents import Latents, write_latents
from training.loop import fit
from training.losses import DISTANCES
from training.networks import STUDENTS, Role, Students
from training.processes import device, processes, rank

LATENTS = "latents"
TEACHER = "teacher"
WEIGHTS = "weights"
BUNDLE = "bundle"


def latents(config: TrainingConfig, base: Path, folder: Path, source: str) -> None:
    """Pictures of `source` -> the cache."""
    write_latents(folder / LATENTS, Base(base), source, config.size, config.held_out)


def guidance(config: TrainingConfig, base: Path, folder: Path) -> Path:
    """The base's UNet -> a network that takes w, `<folder>/teacher`, a diffusers UNet folder."""
    start = Base(base)
    data = CachedData(start, Latents(folder / LATENTS))
    precision = config.guidance.precision
    frozen = start.unet().eval().requires_grad_(False)
    student = start.guided_unet().train()
    if config.checkpointing:
        student.enable_gradient_checkpointing()
    fit(
        "guidance",
        folder,
        config.guidance,
        student,
        lambda rng, n: distil.guidance_loss(student, frozen, data, config.w, precision, rng, n),
    )
    if rank() == 0:
        student.save_pretrained(folder / TEACHER)
    processes().wait_for_everyone()
    return folder / TEACHER


def icd(
    config: TrainingConfig, base: Path, folder: Path, teacher: Path | None = None
) -> Bundle | None:
    """The teacher -> forward and reverse weights, and the bundle of them (of the first process
    alone)."""
    start = Base(base)
    teacher = teacher or folder / TEACHER
    networks = _students(config, teacher, STUDENTS, config.icd.precision, config.icd.seed)
    data = CachedData(start, Latents(folder / LATENTS))
    distance = DISTANCES[config.distance]
    chain = config.chain
    held = folder / LATENTS
    check = icd_check(networks, start, chain, held, config.check_w, config.check_tau)
    fit(
        "icd",
        folder,
        config.icd,
        networks,
        lambda rng, n: distil.icd_loss(
            networks, data, chain, config.w, config.preserve, distance, rng, n
        ),
        check,
    )
    if rank():
        return None
    return _bundle(config, networks, start, teacher, folder, chain, BUNDLE)


def cycle(
    config: TrainingConfig, base: Path, folder: Path, teacher: Path | None = None
) -> Bundle | None:
    """The forward weights of `icd`, trained on through the whole cycle -> a second bundle,
    `<folder>/bundle_cycle`."""
    start = Base(base)
    teacher = teacher or folder / TEACHER
    networks = _students(config, teacher, ("forward",), config.cycle.precision, config.cycle.seed)
    for role in STUDENTS:
        networks.load(role, _weights_file(folder, start, role, config.chain))
    chain = Chain((config.cycle_start, *config.chain.encode_times[1:]), config.chain.decode_times)
    data = CachedData(start, Latents(folder / LATENTS))
    check = icd_check(networks, start, chain, folder / LATENTS, config.check_w, config.check_tau)
    fit(
        "cycle",
        folder,
        config.cycle,
        networks,
        lambda rng, n: distil.cycle_loss(networks, start, data, chain, rng, n),
        check,
    )
    if rank():
        return None
    return _bundle(config, networks, start, teacher, folder, chain, f"{BUNDLE}_cycle")


def _students(
    config: TrainingConfig, teacher: Path, trained: tuple[Role, ...], precision: str, seed: int
) -> Students:
    torch.manual_seed(seed)  # the updates' first factors, alike on every process
    try:
        return Students(
            load_unet(teacher),
            config.lora_rank,
            config.lora_alpha,
            trained,
            precision,
            config.checkpointing,
        ).to(device())
    except ValueError as error:
        raise SettingsError(f"{teacher}: {error}") from None


def _weights_file(folder: Path, base: Base, role: Role, chain: Chain) -> Path:
    """Named as the published files are, from which `icd convert` reads the boundaries."""
    times = chain.encode_times if role == "forward" else chain.decode_times
    return (
        folder
        / WEIGHTS
        / f"iCD-{base.family.name.upper()}-{role}_{'_'.join(map(str, times))}.safetensors"
    )


def _bundle(
    config: TrainingConfig,
    networks: Students,
    base: Base,
    teacher: Path,
    folder: Path,
    chain: Chain,
    name: str,
) -> Bundle:
    forward, reverse = (_weights_file(folder, base, role, chain) for role in STUDENTS)
    for role, path in zip(STUDENTS, (forward, reverse), strict=True):
        networks.save(role, path, torch.float16 if base.family.rounds_lora else torch.float32)
    return convert(
        base.folder,
        teacher,
        forward,
        reverse,
        folder / name,
        overwrite=True,
        defaults=config.defaults,
    )
