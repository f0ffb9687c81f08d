"""The published models that have names here: where their files are, their time steps and what their
sources say of licences. The one table of these."""

from __future__ import annotations

import os
from dataclasses import dataclass

MIRROR = "ICD_MIRROR"  # a folder on the web that has the authors' archives
AUTHORS = "https://storage.yandexcloud.net/yandex-research/invertible-cd"
# github.com/yandex-research/invertible-cd, its README and LICENSE, read in November 2026
AUTHORS_LICENCE = "the authors' repository is under Apache-2.0; of the weights it says nothing more"
# Of a base all but its UNet, whose weights are the teacher's: never pickles, single precision
BASE_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer*/*",
    "text_encoder*/config.json",
    "text_encoder*/model.safetensors",
    "unet/config.json",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
)


@dataclass(frozen=True)
class Archive:
    """A tar archive of the authors. size: bytes, as their README rounds them."""

    name: str
    size: int
    licence: str = AUTHORS_LICENCE

    @property
    def key(self) -> str:
        """The folder that it lies in here."""
        return self.name.split(".tar")[0]

    @property
    def url(self) -> str:
        """What it is known by, wherever it is downloaded from."""
        return f"{AUTHORS}/{self.name}"

    @property
    def address(self) -> str:
        """Where it is downloaded from: the authors, or the mirror of ICD_MIRROR."""
        return f"{(os.environ.get(MIRROR) or AUTHORS).rstrip('/')}/{self.name}"


@dataclass(frozen=True)
class Repository:
    """Files of a repository of the Hugging Face hub, by their patterns. size: bytes, about; the
    licence is what its page says when it is asked."""

    name: str
    size: int
    files: tuple[str, ...]

    @property
    def key(self) -> str:
        """The folder that they lie in here, named as the hub's own cache names it."""
        return f"models--{self.name.replace('/', '--')}"


Source = Archive | Repository


@dataclass(frozen=True)
class Published:
    """One model: its sources, and the ascending time steps that its networks' hops start at."""

    what: str
    base: Repository
    teacher: Archive
    forward: Source
    reverse: Source
    encode_times: tuple[int, ...]
    decode_times: tuple[int, ...]

    @property
    def sources(self) -> tuple[Source, ...]:
        """Each once, the large ones of several models first."""
        return tuple(dict.fromkeys((self.base, self.teacher, self.reverse, self.forward)))


CHAIN_A = ((19, 259, 519, 779), (259, 519, 779, 999))
CHAIN_B = ((19, 249, 499, 699), (249, 499, 699, 999))
CHAIN_3 = ((19, 339, 699), (339, 699, 999))
SD15 = Repository("stable-diffusion-v1-5/stable-diffusion-v1-5", 830_000_000, BASE_FILES)
SDXL = Repository("stabilityai/stable-diffusion-xl-base-1.0", 3_610_000_000, BASE_FILES)
SD15_TEACHER = Archive("sd15_cfg_distill.pt.tar.gz", 3_000_000_000)
SDXL_TEACHER = Archive("sdxl_cfg_distill.pt.tar.gz", 8_900_000_000)
# Inverse-and-Edit's forward model; where it starts is what its code says, and not its name
CYCLE = Repository(
    "ilushado/Cycle-consistency", 269_000_000, ("finetuned_forward_model.safetensors",)
)


def _sd15(archive: str, chain: tuple[tuple[int, ...], tuple[int, ...]], what: str) -> Published:
    loras = Archive(archive, 500_000_000)
    return Published(f"Stable Diffusion 1.5, {what}", SD15, SD15_TEACHER, loras, loras, *chain)


def _sdxl(archive: str, chain: tuple[tuple[int, ...], tuple[int, ...]], what: str) -> Published:
    loras = Archive(archive, 1_400_000_000)
    return Published(f"SDXL, {what}", SDXL, SDXL_TEACHER, loras, loras, *chain)


PUBLISHED = {
    "icd-sd15": _sd15("iCD-SD15_4steps_1.tar.gz", CHAIN_A, "four steps"),
    "icd-sd15-b": _sd15("iCD-SD15_4steps_2.tar.gz", CHAIN_B, "four other steps"),
    "icd-sd15-3steps": _sd15("iCD-SD15_3steps.tar.gz", CHAIN_3, "three steps"),
    "icd-sd15-cycle": Published(
        "Stable Diffusion 1.5, encoding of Inverse-and-Edit",
        SD15,
        SD15_TEACHER,
        CYCLE,
        Archive("iCD-SD15_4steps_1.tar.gz", 500_000_000),
        (0, *CHAIN_A[0][1:]),
        CHAIN_A[1],
    ),
    "icd-sdxl": _sdxl("iCD-SDXL_4steps_1.tar.gz", CHAIN_A, "four steps"),
    "icd-sdxl-b": _sdxl("iCD-SDXL_4steps_2.tar.gz", CHAIN_B, "four other steps"),
    "icd-sdxl-3steps": _sdxl("iCD-SDXL_3steps.tar.gz", CHAIN_3, "three steps"),
}
