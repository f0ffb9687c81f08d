"""The VAE in tiles where pictures are large, and in float32 where it overflows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from icd_engine.engine import Engine
from icd_engine.errors import ImageError
from icd_engine.runners.pictures import wants_tiles
from tests.icd_engine.plain_loops import SOURCE, TARGET, picture
from training.world.drawing import draw
from training.world.scenes import sample_scene

# --- tiles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "tiling", "expected"),
    [
        ((16, 16), True, False),
        ((16, 17), True, True),
        ((32, 32), None, False),
        ((32, 33), None, True),
        ((90, 90), False, False),
    ],
)
def test_when_tiles_are_used(size, tiling, expected):
    assert wants_tiles(size, 16, tiling) is expected


def test_a_trained_vae_keeps_large_pictures_as_well_in_tiles():
    """Better, if anything: each tile is of the size that its norms have seen."""
    scenes = [draw(sample_scene(np.random.default_rng(seed))) for seed in range(6)]
    pixels = torch.from_numpy(
        np.concatenate([np.concatenate(scenes[i : i + 3], axis=1) for i in (0, 3)])
    )[None]
    tiled = Engine.from_pretrained("tiny", device="cpu", vae_tiling=True).runner
    whole = Engine.from_pretrained("tiny", device="cpu", vae_tiling=False).runner
    # Of more than four tiles' pixels: tiled
    auto = Engine.from_pretrained("tiny", device="cpu").runner

    def psnr(runner: Any) -> float:
        kept = runner.to_pixels(runner.to_latents(pixels)).float()
        return float(-10 * ((kept - pixels) / 255).square().mean().log10())

    assert psnr(tiled) > psnr(whole) - 0.5 > 24
    assert torch.equal(auto.to_latents(pixels), tiled.to_latents(pixels))


def test_a_level_picture_has_no_seams(published):
    tiled = Engine.from_pretrained(published.path, device="cpu", vae_tiling=True).runner
    tiled.vae.sample_size = 64
    image = tiled.to_image(torch.full((1, 4, 24, 24), 0.3))
    inner = image[..., 32:-32, 32:-32]
    assert float(inner.diff(dim=-1).abs().max()) <= 2 * float(
        tiled.vae.to_image(torch.full((1, 4, 8, 8), 0.3)).diff(dim=-1).abs().max()
    )


# --- half precision -------------------------------------------------------------------------------


@pytest.fixture
def overflowing(small_bundle) -> Iterator[Engine]:
    """Its VAE overflows in float16, on the way in and on the way out, and nowhere in float32."""
    engine = Engine.from_pretrained(small_bundle, device="cpu")
    vae = engine.runner.vae
    with torch.no_grad():
        for layer in (vae.encoder.conv_in, vae.decoder.conv_in):
            layer.weight *= 3e5
    vae.half()
    yield engine


@pytest.mark.filterwarnings("ignore:the VAE overflowed")
def test_what_overflows_is_computed_again_in_float32(overflowing):
    runner = overflowing.runner
    exact = Engine.from_pretrained(overflowing.bundle.path, device="cpu").runner
    exact.vae.load_state_dict(
        {key: value.float() for key, value in runner.vae.state_dict().items()}
    )
    pixels = torch.from_numpy(np.asarray(picture()).copy())[None]
    latents = exact.to_latents(pixels)
    moments, finite = runner.stages.to_moments(pixels)
    assert not finite and not moments.isfinite().all()
    assert torch.equal(runner.to_latents(pixels), latents)
    assert torch.equal(runner.to_pixels(latents), exact.to_pixels(latents))
    assert torch.equal(runner.to_image(latents), exact.to_image(latents))
    assert runner.pictures.retries == 3 and exact.pictures.retries == 0
    # And not black
    assert len(overflowing.edit(picture(), SOURCE, TARGET).image.getcolors(10_000)) > 10


def test_the_first_overflow_is_told(overflowing):
    with pytest.warns(UserWarning, match="overflowed in half precision") as told:
        for _ in range(2):
            overflowing.runner.to_image(torch.randn(1, 4, 8, 8))
    assert len(told) == 1


@pytest.mark.filterwarnings("ignore:the VAE overflowed")
def test_what_is_not_finite_in_float32_either_is_an_error(overflowing):
    for decode in (overflowing.runner.to_pixels, overflowing.runner.to_image):
        with pytest.raises(ImageError, match="NaN"):
            decode(torch.full((1, 4, 8, 8), torch.nan))
    assert overflowing.runner.pictures.retries == 2


@pytest.mark.parametrize("kind", ["pil", "np", "pt"])
def test_no_output_type_hands_out_nan(small_engine, kind):
    def broken(step, t, latents):
        latents.fill_(torch.nan)

    with pytest.raises(ImageError, match="NaN"):
        small_engine.edit(picture(), SOURCE, TARGET, output_type=kind, callback_on_step_end=broken)
