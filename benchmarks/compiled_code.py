"""Compiled code that outlives its machine: what torch.compile made and tuned, as files that travel."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import torch

from benchmarks.record import note

PART = 15 * 2**20  # bytes of a file at most


def load(folder: Path) -> None:
    """Hands everything that `save` wrote into the folder to torch's caches."""
    files = defaultdict[str, list[Path]](list)
    for path in sorted(folder.glob("*.compiled.*")):
        files[path.name.split(".")[0]].append(path)
    for name, parts in files.items():
        torch.compiler.load_cache_artifacts(b"".join(part.read_bytes() for part in parts))
        note(f"compiled code of {name} is loaded from {folder}")


def save(folder: Path, name: str) -> list[Path]:
    """Writes what this process compiled, or took from a cache, as name.compiled.00, .01, ...

    Nothing is written where nothing was compiled.
    """
    saved = torch.compiler.save_cache_artifacts()
    if saved is None or not saved[0]:
        return []
    artifacts, _ = saved
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{name}.compiled.*"):
        old.unlink()
    paths = []
    for i, first in enumerate(range(0, len(artifacts), PART)):
        path = folder / f"{name}.compiled.{i:02}"
        path.write_bytes(artifacts[first : first + PART])
        paths.append(path)
    note(f"compiled code is kept: {len(artifacts) / 2**20:.1f} MiB in {len(paths)} files")
    return paths
