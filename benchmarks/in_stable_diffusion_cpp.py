"""UNet and VAE run by stable-diffusion.cpp (ggml) on a CPU: a measure of our runners in which torch
has no part.

Its Python package makes whole pictures. It calls back after every step of one, and its log says
what the VAE took.
"""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.architectures import WEIGHTS, architecture_bundle
from benchmarks.checks import Refused, require_equal
from benchmarks.record import note
from benchmarks.timing import Times
from benchmarks.workload import make_cases
from icd_engine.bundles.bundle import Bundle
from icd_engine.bundles.files import read_weights
from icd_engine.images import to_model_range
from icd_engine.loading import load_network, load_text_encoder
from icd_engine.networks.text_encoder import PREFIX, DualTextEncoder
from icd_engine.networks.unet import AddedConditions, UNet
from icd_engine.networks.vae import VAE
from icd_engine.sampling.schedule import NoiseSchedule

NAME = "stable-diffusion.cpp"
PACKAGE = "stable_diffusion_cpp"
ARCHITECTURES = ("sd15", "sdxl")  # it knows published shapes only
PRECISIONS = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
# Piece -> its guidance scale: but for 1, a step is a pass with the prompt and one without it
UNET_PIECES = {"UNet, 1 row": 1.0, "UNet, 2 rows": 2.0}
VAE_PIECES = {"VAE encoder": "encode", "VAE decoder": "decode"}
HALF = "convolutions in float16"
NOTES = dict.fromkeys((*UNET_PIECES, *VAE_PIECES), HALF) | {
    "UNet, 2 rows": f"two passes of one row, one after the other; {HALF}"
}
VAE_TOOK = re.compile(r"computing vae (encode|decode) graph completed, taking ([\d.]+)s")
BEGIN, END = 49406, 49407  # CLIP's own tokens: it has no other tokenizer
TOKENS = 77
ERROR = 3  # level of a line of its log
SECOND_ENCODER = "clip_g.safetensors"  # of SDXL; in a folder of its own it takes it for the first's
STEP = 519  # the time step of all passes
SEED = 0
COMPARED = 256  # side of the compared picture, pixels
# Relative difference of pictures that eight bits make is 0.0035, without the UNet it is 0.05 or more.
LIMIT = 0.01


def measure_pieces(
    part: str,
    architecture: str,
    size: int,
    dtype: torch.dtype,
    repeats: int,
    warmup: int,
) -> Iterator[tuple[str, Times]]:
    """Piece by piece of a part ("unet", "vae") its name and times, at pictures of `size` pixels.

    Weights are random, those of the architecture's bundle, brought to `dtype`. Nothing where the
    library is not installed, which is told. Refused where it cannot load them, knows no such
    shape, or makes another picture of them than we do.
    """
    if find_spec(PACKAGE) is None:
        note(f"{NAME} is not installed (pip install stable-diffusion-cpp-python): no baseline")
        return
    if architecture not in ARCHITECTURES:
        raise Refused(f"{NAME} runs {' and '.join(ARCHITECTURES)}, not {architecture}")
    bundle = architecture_bundle(architecture)
    expected = expected_picture(bundle)
    with folder_of(bundle) as folder, opened(folder, dtype) as painter:
        distance = require_equal(
            f"{NAME}'s picture", painter.paint(COMPARED).picture, expected, LIMIT
        )
        note(f"{NAME}'s picture differs by {distance:.1e}; timing")
        if part == "unet":
            for name, guidance in UNET_PIECES.items():
                painted = painter.paint(size, steps=warmup + repeats, guidance=guidance)
                yield name, Times(painted.step_ms[warmup:])
            return
        picture = make_cases(1, (size, size))[0].picture
        kept = [painter.paint(size, steps=0, source=picture) for _ in range(warmup + repeats)]
        for name, half in VAE_PIECES.items():
            yield name, Times([painted.vae_ms[half] for painted in kept[warmup:]])


class Painted(NamedTuple):
    """A picture [3, h, w] in [-1, 1], milliseconds of each step, and of the VAE's halves that ran."""

    picture: Tensor
    step_ms: list[float]
    vae_ms: dict[str, float]


@dataclass(frozen=True)
class Painter:
    """The library with a model. log: what it has said, which it adds to."""

    model: Any
    log: list[str]
    sigma: float  # of noise over picture, at all steps

    def paint(
        self,
        side: int,
        *,
        steps: int = 1,
        guidance: float = 1.0,
        source: Image.Image | None = None,
    ) -> Painted:
        """A square picture of the empty prompt, from noise or from a `source` with noise.

        All steps are at the same noise, which the last one takes away. Without steps there is none:
        the source goes through the VAE alone.
        """
        self.log.clear()
        marks: list[float] = []
        (image,) = self.model.generate_image(
            prompt="",
            width=side,
            height=side,
            cfg_scale=guidance,
            sample_method="euler",
            sample_steps=max(1, steps),
            sigmas=",".join(map(repr, [self.sigma] * steps + [0.0])),
            seed=SEED,
            init_image=source,
            strength=1.0,
            # Always: it keeps a pointer to the one of the call before, which may be gone
            progress_callback=lambda *told: marks.append(time.perf_counter()),
        )
        picture = to_model_range(image.convert("RGB"), image.size)[0]
        took = (match for line in self.log if (match := VAE_TOOK.search(line)))
        return Painted(
            torch.from_numpy(picture),
            [1000 * float(ms) for ms in np.diff(marks)],
            {match[1]: 1000 * float(match[2]) for match in took},
        )


@contextmanager
def opened(folder: Path, dtype: torch.dtype) -> Iterator[Painter]:
    """`folder_of` a bundle in the library, as long as the context lasts. Refused where it does not
    load."""
    library: Any = import_module(PACKAGE)
    log: list[str] = []
    errors: list[str] = []

    @library.sd_log_callback
    def listen(level: int, text: bytes, data: Any) -> None:
        (errors if level >= ERROR else log).append(text.decode(errors="replace").strip())

    library.sd_set_log_callback(listen, None)
    second = folder / SECOND_ENCODER
    model = library.StableDiffusion(
        model_path=str(folder),
        clip_g_path=str(second) if second.is_file() else "",
        # Told apart, else it scales SDXL's convolutions against overflows
        vae_path=str(folder / "vae" / WEIGHTS),
        wtype=PRECISIONS[dtype],
        n_threads=torch.get_num_threads(),
        rng_type="cpu",  # torch's numbers
        sampler_rng_type="cpu",
        verbose=False,
    )
    try:
        if not model.model:
            # One that is not there would be freed, which ends the process: it is never let go
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(model))
            raise Refused(f"{NAME} does not load {folder}: {'; '.join(errors[-3:])}")
        schedule = NoiseSchedule.scaled_linear()
        with closing(model):
            yield Painter(model, log, schedule.sigma(STEP) / schedule.a(STEP))
    finally:
        # Else loading another would call what is gone
        library.sd_set_log_callback(None, None)
        library.sd_set_progress_callback(None, None)


@contextmanager
def folder_of(bundle: Bundle) -> Iterator[Path]:
    """The bundle's networks as the library reads a folder of diffusers: keys of text encoders have
    transformers' old prefix there, and the second encoder lies apart."""
    with TemporaryDirectory(prefix="icd-ggml-", dir=bundle.path.parent) as scratch:
        folder = Path(scratch).resolve()
        for part in ("unet", "vae"):
            (folder / part).symlink_to((bundle.path / part).resolve())
        (folder / "text_encoder").mkdir()
        files = {"text_encoder": "text_encoder/model.safetensors", "text_encoder_2": SECOND_ENCODER}
        for part in filter(bundle.configs.__contains__, files):
            named = {
                key if key.startswith("text_projection") else PREFIX + key: value
                for key, value in read_weights(bundle.weights(part)).items()
            }
            save_file(named, folder / files[part])
        yield folder


@torch.inference_mode()
def expected_picture(bundle: Bundle) -> Tensor:
    """What `Painter.paint` makes of COMPARED pixels in one step, by our networks in float32, one
    after the other in memory: [3, h, w] in [-1, 1]."""
    place, exact = torch.device("cpu"), torch.float32
    schedule = NoiseSchedule.from_config(bundle.config("scheduler"))
    side = COMPARED // 8
    noise = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(SEED))
    encoder = load_text_encoder(bundle, place, exact)
    ids = [[BEGIN] + [END] * (TOKENS - 1)]
    if isinstance(encoder, DualTextEncoder):
        encoder.second.end = END  # that of the bundle is its own tokenizer's
        ids[0] += [BEGIN, END] + [0] * (TOKENS - 2)
    prompt = encoder.encode(torch.tensor(ids))
    added = None
    if prompt.pooled is not None:
        sizes = torch.tensor([[COMPARED, COMPARED, 0, 0, COMPARED, COMPARED]], dtype=exact)
        added = AddedConditions(prompt.pooled, sizes)
    del encoder
    unet = load_network(bundle, "unet", UNet, place, exact)
    # It has no guidance embedding: that of zeros adds nothing
    guidance = torch.zeros(1, bundle.config("unet")["time_cond_proj_dim"])
    t = torch.tensor([float(STEP)])
    eps = unet(schedule.sigma(STEP) * noise, t, prompt.tokens, guidance, None, added).eps
    del unet
    vae = load_network(bundle, "vae", VAE, place, exact)
    latents = (noise - eps) * (schedule.sigma(STEP) / schedule.a(STEP))
    return vae.to_image(latents)[0].clamp(-1, 1)
