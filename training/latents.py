"""The cache of latents a distillation draws from: pictures go through the VAE once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from icd_engine.errors import ImageError, SettingsError
from training.processes import device, processes, rank, world_size
from training.sources import Captioned, open_source, square

SHARD = 1024  # pictures
HELD_OUT = "held_out.safetensors"


class LatentEncoder(Protocol):
    """A VAE's way in: pictures [B, 3, H, W] in [-1, 1] -> mean and deviation [B, 4, h, w], not
    scaled."""

    downscale: int

    def moments(self, pictures: Tensor) -> tuple[Tensor, Tensor]: ...


def write_latents(
    folder: Path, encoder: LatentEncoder, source: str, side: int, held_out: int = 16, batch: int = 8
) -> None:
    """Caches a source's pictures as the VAE's posterior, each process every world_size-th block of
    SHARD pictures.

    The first `held_out` good pictures are kept as pixels for validation and never trained on. A
    file that cannot be read is skipped, with its reason in the shard's header. Blocks that are
    there are not made again. Raises SettingsError where nothing is readable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if side % encoder.downscale:
        raise SettingsError(f"size {side} must be a multiple of {encoder.downscale}")
    pictures = open_source(source)
    if rank() == 0:
        _write_held_out(folder, pictures, side, held_out)
    processes().wait_for_everyone()
    kept = {str(name) for name in Held(folder).names}
    rows = (row for row in open_source(source) if row.name not in kept)
    for index, block in enumerate(_blocks(rows)):
        path = folder / f"latents-{index:05d}.safetensors"
        if index % world_size() == rank() and not path.exists():
            _write_block(path, encoder, block, side, batch)
    processes().wait_for_everyone()
    if not any(folder.glob("latents-*.safetensors")) or not len(Latents(folder)):
        raise SettingsError(f"{source!r} has no readable picture beyond the {held_out} held out")


def _blocks(rows: Iterator[Captioned]) -> Iterator[list[Captioned]]:
    while block := list(islice(rows, SHARD)):
        yield block


def _read(
    rows: Iterator[Captioned] | list[Captioned], side: int, skipped: list[str]
) -> Iterator[tuple[Captioned, np.ndarray]]:
    for row in rows:
        try:
            yield row, square(row.read(), side)
        except ImageError as error:
            skipped.append(f"{row.name}: {error}")


def _write_held_out(folder: Path, rows: Iterator[Captioned], side: int, count: int) -> None:
    path = folder / HELD_OUT
    if path.exists():
        return
    found = list(islice(_read(rows, side, []), count))
    if not found:
        raise SettingsError("the source has no readable picture")
    pixels = torch.from_numpy(np.stack([picture for _, picture in found]))
    header = {
        "names": [row.name for row, _ in found],
        "captions": [row.caption for row, _ in found],
    }
    _save(path, {"pixels": pixels}, header)


def _write_block(
    path: Path, encoder: LatentEncoder, rows: list[Captioned], side: int, batch: int
) -> None:
    skipped: list[str] = []
    captions: list[str] = []
    means, deviations = [], []
    readable = _read(rows, side, skipped)
    while some := list(islice(readable, batch)):
        captions += [row.caption for row, _ in some]
        pixels = torch.from_numpy(np.stack([picture for _, picture in some])).to(device())
        mean, deviation = encoder.moments(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
        means.append(mean.half().cpu())
        deviations.append(deviation.half().cpu())
    if means:
        values = {"mean": torch.cat(means), "deviation": torch.cat(deviations)}
    else:
        values = {
            name: torch.zeros(0, 4, side // encoder.downscale, side // encoder.downscale).half()
            for name in ("mean", "deviation")
        }
    _save(path, values, {"captions": captions, "skipped": skipped})


def _save(path: Path, values: dict[str, Tensor], header: dict[str, list[str]]) -> None:
    temporary = path.with_suffix(f".tmp{os.getpid()}")
    save_file(
        {k: v.contiguous() for k, v in values.items()},
        temporary,
        metadata={k: json.dumps(v) for k, v in header.items()},
    )
    os.replace(temporary, path)


class Held:
    """The pictures kept for validation: uint8 [N, side, side, 3], with names and captions."""

    def __init__(self, folder: Path):
        if not (folder / HELD_OUT).is_file():
            raise _no_cache(folder)
        with safe_open(folder / HELD_OUT, "pt") as file:
            self.pixels = file.get_tensor("pixels").numpy()
            header = file.metadata()
        self.names, self.captions = (json.loads(header[key]) for key in ("names", "captions"))


def _no_cache(folder: Path) -> SettingsError:
    return SettingsError(
        f"{folder} holds no cache of latents: run `python -m training latents` first"
    )


@lru_cache(maxsize=256)
def _opened(path: Path) -> Any:
    return safe_open(path, "pt")


@dataclass(frozen=True)
class _Shard:
    path: Path
    captions: list[str]


class Latents:
    """The cache as one long table, read from the disk row by row; its order depends on the files
    alone."""

    def __init__(self, folder: Path):
        self._shards: list[_Shard] = []
        self.skipped: list[str] = []
        for path in sorted(folder.glob("latents-*.safetensors")):
            with safe_open(path, "pt") as file:
                header = file.metadata()
            self._shards.append(_Shard(path, json.loads(header["captions"])))
            self.skipped += json.loads(header["skipped"])
        if not self._shards:
            raise _no_cache(folder)
        self._ends = np.cumsum([len(shard.captions) for shard in self._shards])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Tensor, list[str]]:
        """Samples of the posterior, not scaled, [count, 4, h, w] float32 on the device, and their
        captions."""
        means = []
        deviations = []
        captions = []
        for row in rng.integers(0, len(self), count):
            k = int(np.searchsorted(self._ends, row, side="right"))
            shard = self._shards[k]
            at = int(row - (self._ends[k - 1] if k else 0))
            file = _opened(shard.path)
            means.append(file.get_slice("mean")[at])
            deviations.append(file.get_slice("deviation")[at])
            captions.append(shard.captions[at])
        mean = torch.stack(means).float()
        deviation = torch.stack(deviations).float()
        noise = torch.from_numpy(rng.standard_normal(mean.shape, dtype=np.float32))
        return (mean + deviation * noise).to(device()), captions
