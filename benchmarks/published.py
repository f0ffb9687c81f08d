"""Published files at full size, with random weights: what converting, loading and one edit take,
and their memory.

The files are those of the authors: a diffusers folder, a guidance-distilled teacher as a float32
state dict, and two LoRA files of rank 64. Each step runs in a process of its own, whose peak memory
is therefore its own.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.architectures import ARCHITECTURES, base_files, cache_folder, random_weights
from benchmarks.checks import Refused
from benchmarks.record import note
from benchmarks.timing import peak_memory_mib
from benchmarks.workload import make_cases
from icd_engine.bundles.convert import convert
from icd_engine.bundles.files import write_file
from icd_engine.bundles.lora import LORA_MODULES
from icd_engine.engine import Engine
from icd_engine.loading import choose_device, choose_dtype
from icd_engine.networks.unet import UNet

RANK = 64
TEACHER = "cfg_distill.pt"
LORAS = {
    "forward": "iCD-forward_19_259_519_779.safetensors",
    "reverse": "iCD-reverse_259_519_779_999.safetensors",
}
MODES: dict[str, dict[str, Any]] = {
    "two networks": {},
    "weights switch": {"weights": "switch"},
    "weights switch, VAE in tiles": {"weights": "switch", "vae_tiling": True},
    "weights switch, offload": {"weights": "switch", "offload": True},
}
PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def measure_published(
    *,
    architecture: str,
    size: int | None = None,
    runner: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    only: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Seconds and peak memory of converting, and of loading and one edit in each memory mode, or in
    `only` one of MODES.

    The picture is `size` pixels wide and high. Refused, IcdError.
    """
    if only is not None and only not in MODES:
        raise Refused(f"only must be one of {', '.join(MODES)}, not {only!r}")
    if architecture not in ARCHITECTURES:
        raise Refused(
            f"architecture must be one of {', '.join(ARCHITECTURES)}, not {architecture!r}"
        )
    side = size or ARCHITECTURES[architecture]["size"]
    precision = PRECISIONS[choose_dtype(dtype, device)]
    about = {"model": f"{architecture} (random weights)", "size": [side, side], "dtype": precision}
    about |= {"threads": torch.get_num_threads(), "device_type": choose_device(device).type}
    folder = cache_folder() / f"published-{architecture}-{os.getpid()}"
    try:
        apart(write_published, architecture, folder)
        converted = apart(_convert, folder, precision)
        disk = {part: _mib(folder / part) for part in ("base", TEACHER, *LORAS.values(), "bundle")}
        yield about | {"mode": "convert"} | converted | {"disk_mib": disk}
        for mode, options in MODES.items():
            if only not in (None, mode):
                continue
            if "offload" in options and choose_device(device).type == "cpu":
                continue  # it would change nothing
            yield (
                about
                | {"mode": mode}
                | apart(_edit, folder / "bundle", side, device, dtype, runner, options)
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_published(architecture: str, folder: Path) -> dict[str, Any]:
    """A base folder, a teacher and two LoRA files of an architecture."""
    parts = ARCHITECTURES[architecture]
    for name, content in base_files(parts):
        write_file(folder / "base", name, content)
    config = {key: value for key, value in parts["unet"].items() if key != "time_cond_proj_dim"}
    write_file(folder / "base", "unet/config.json", config)
    with torch.device("meta"):
        base = UNet(config)
        teacher = UNet(parts["unet"])
    write_file(
        folder / "base", "unet/diffusion_pytorch_model.safetensors", random_weights(base, seed=3)
    )
    torch.save(
        {key: value.float() for key, value in random_weights(teacher, seed=4).items()},
        folder / TEACHER,
    )
    shapes = {key: tuple(value.shape) for key, value in teacher.state_dict().items()}
    for seed, name in enumerate(LORAS.values()):
        write_file(folder, name, dict(lora_updates(shapes, seed)))
    return {}


def lora_updates(shapes: dict[str, tuple[int, ...]], seed: int) -> Iterator[tuple[str, Tensor]]:
    """Random updates, a thousandth of the weights, in the authors' key style."""
    generator = torch.Generator().manual_seed(seed)
    for key, shape in shapes.items():
        module = key.removesuffix(".weight")
        if not key.endswith(".weight") or not module.endswith(LORA_MODULES):
            continue
        out, inner, *kernel = shape
        for role, sides in (("A", (RANK, inner, *kernel)), ("B", (out, RANK, *[1] * len(kernel)))):
            drawn = torch.randn(sides, generator=generator) * 1e-2
            yield f"unet.base_model.model.{module}.lora_{role}.weight", drawn


def _convert(folder: Path, precision: str) -> dict[str, Any]:
    forward, reverse = (folder / LORAS[role] for role in ("forward", "reverse"))
    bundle = convert(
        folder / "base", folder / TEACHER, forward, reverse, folder / "bundle", precision=precision
    )
    return {"family": bundle.family}


def _edit(
    bundle: Path, side: int, device: str, dtype: str, runner: str, options: dict[str, Any]
) -> dict[str, Any]:
    """Loads the bundle and runs one edit with attention control and local blend."""
    started = time.perf_counter()
    engine = Engine.from_pretrained(bundle, device=device, dtype=dtype, runner=runner, **options)
    load_s = round(time.perf_counter() - started, 1)
    case = make_cases(1, (side, side))[0]
    result = engine.edit(case.picture, case.source, case.target, size=(side, side), **case.settings)
    if not bool(torch.as_tensor(result.latents).isfinite().all()):
        raise Refused("the edit's latents are not finite")
    stages = {name: round(ms) for name, ms in result.timings.items()}
    peak = (
        {"device_peak_memory_mib": peak_memory_mib(engine.runner.device)}
        if "cuda" in engine.runner.device.type
        else {}
    )
    return {
        "load_s": load_s,
        "runner": engine.runner.name,
        "calls": result.network_calls,
        "stages_ms": stages,
        **peak,
    }


def apart(step: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What a step returns, its seconds, and the most memory its own process held."""
    with Pool(1, context=get_context("spawn")) as pool:
        result = pool.apply(_measured, (step, arguments, torch.get_num_threads()))
    note(f"{step.__name__}: {result}")
    return result


def _measured(
    step: Callable[..., dict[str, Any]], arguments: tuple, threads: int
) -> dict[str, Any]:
    torch.set_num_threads(threads)
    started = time.perf_counter()
    result = step(*arguments)
    return {
        "s": round(time.perf_counter() - started, 1),
        "peak_memory_mib": peak_memory_mib(torch.device("cpu")),
        **result,
    }


def _mib(path: Path) -> float:
    files = path.rglob("*") if path.is_dir() else [path]
    return round(sum(file.stat().st_size for file in files if file.is_file()) / 2**20, 1)
