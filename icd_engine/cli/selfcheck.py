"""The self-check of `icd doctor`: one edit, and whether what comes out can be right."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from icd_engine.bundles.demo import PICTURE, Demo, read_demo
from icd_engine.cli.terminal import open_engine
from icd_engine.errors import ImageError, RunnerError
from icd_engine.images import psnr
from icd_engine.placement import PLAIN

if TYPE_CHECKING:
    from icd_engine.engine import Engine


def self_check(model: str) -> Iterator[tuple[str, str]]:
    """(name, text) about loading the model and one edit.

    IcdError where either fails or the result is not a picture.
    """
    started = time.perf_counter()
    engine = open_engine(model, quiet=True, placement=PLAIN, yes=False)
    loaded = time.perf_counter() - started
    yield "runner", f"{engine.runner.name} on {engine.runner.device}, loaded in {loaded:.1f} s"
    demo = _demo(engine)
    result = engine.edit(demo.picture, demo.source, demo.target, **demo.settings)
    if not np.isfinite(np.asarray(result.latents)).all():
        raise RunnerError("the self-check's latents hold NaN or infinite values")
    if np.ptp(np.asarray(result.image)) == 0:
        raise ImageError("the self-check's picture is one colour")
    width, height = result.inversion.size
    seconds = result.timings["total"] / 1000
    calls = result.network_calls
    yield "self-check", f"an edit at {width}x{height}: {calls} network calls, {seconds:.1f} s"
    yield (
        "inversion",
        f"{psnr(demo.picture, result.reconstruction):.1f} dB between the picture and its reconstruction",
    )


def _demo(engine: Engine) -> Demo:
    """The model's demonstration, else a picture of colours that run into each other."""
    folder: Path = engine.bundle.path
    if (folder / PICTURE).is_file():
        return read_demo(folder)
    width, height = engine.bundle.size
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([across, down, 255 - across], axis=-1).astype(np.uint8)
    return Demo(Image.fromarray(pixels), "a photo of a cat", "a photo of a dog", {})
