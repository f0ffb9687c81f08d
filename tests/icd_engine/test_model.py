"""A loaded model: its guidance, precision and output types, and the options it is not loaded with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import icd_engine
from icd_engine.engine import Engine
from icd_engine.errors import BundleError, RunnerError
from icd_engine.sampling.guidance import guidance_embedding
from tests.icd_engine.plain_loops import (
    OTHER,
    ROUNDING,
    SOURCE,
    TARGET,
    assert_close,
    picture,
    plain_decode,
    recorded,
)


@pytest.fixture(scope="module")
def two_pass_engine(two_pass_bundle) -> Engine:
    return Engine.from_pretrained(two_pass_bundle, device="cpu")


def test_generation_takes_the_models_seed(small_engine):
    given, left_out = (
        small_engine.generate(TARGET, seed=seed, output_type="latent") for seed in (0, None)
    )
    assert torch.equal(given, left_out)


@pytest.mark.parametrize(
    "tau, tau_low, expected",
    [
        (0.8, 0.0, [0, 10, 10, 10]),
        (1.0, 0.0, [10, 10, 10, 10]),
        ((0.3, 0.9), 0.0, [0, 10 * (0.9 - 0.779) / 0.6, 10 * (0.9 - 0.519) / 0.6, 10]),
        (0.8, 0.3, [0, 10, 10, 0]),
    ],
    ids=["step", "constant", "ramp", "interval"],
)
def test_dynamic_guidance_reaches_the_network(small_engine, tau, tau_low, expected):
    times, unet = [999.0, 779.0, 519.0, 259.0], small_engine.runner.decode_network
    settings = {"guidance_scale": 10.0, "tau": tau, "tau_low": tau_low, "anchor": 0.0}
    with recorded(small_engine) as seen:
        result = small_engine.edit(picture(), SOURCE, [TARGET, OTHER], **settings)
        result.inversion.edit([TARGET, OTHER], **settings)
    assert len(seen["shifts"]) == 8
    for k, shifts in enumerate(seen["shifts"]):
        embedding = torch.from_numpy(guidance_embedding([0.0, expected[k % 4]], 64))
        with torch.no_grad():
            unguided, guided = unet.time_shifts(torch.full((2,), times[k % 4]), embedding)
        # 1000 w in float32 is a phase of up to 10^4: its rounding moves a sine by 1e-3.
        torch.testing.assert_close(shifts[-2:], torch.stack([guided, guided]), rtol=0, atol=2e-3)
        if k < 4:
            torch.testing.assert_close(shifts[0], unguided)
        assert len(shifts) == (3 if k < 4 else 2)  # a further edit runs the target rows alone


def test_source_rows_that_run_ahead_are_unguided_each_at_its_own_time(small_engine):
    times, unet = [999.0, 779.0, 519.0, 259.0], small_engine.runner.decode_network
    with recorded(small_engine) as seen:
        small_engine.edit(picture(), SOURCE, TARGET, guidance_scale=10.0, tau=1.0)
    unguided, guided = (
        torch.from_numpy(guidance_embedding([w] * 4, unet.guidance_channels)) for w in (0.0, 10.0)
    )
    with torch.no_grad():
        sources, targets = (unet.time_shifts(torch.tensor(times), w) for w in (unguided, guided))
    assert [len(shifts) for shifts in seen["shifts"]] == [5, 1, 1, 1]
    torch.testing.assert_close(seen["shifts"][0][:4], sources, rtol=0, atol=2e-3)
    own = torch.cat([shifts[-1:] for shifts in seen["shifts"]])
    torch.testing.assert_close(own, targets, rtol=0, atol=2e-3)


@pytest.mark.parametrize("tau", [0.8, (0.3, 0.9)], ids=["step", "ramp"])
def test_two_pass_model_equals_explicit_guidance(two_pass_engine, tau):
    """eps_u + (1 + w)(eps_c - eps_u): the difference of two near predictions times w loses a digit
    more."""
    kept = two_pass_engine.invert(picture(), SOURCE)
    result = kept.edit(TARGET, control="none", guidance_scale=4.0, tau=tau, anchor=0.0)
    expected = plain_decode(two_pass_engine, kept.latents, TARGET, w=4.0, tau=tau)
    assert_close(result.latents, expected, 10 * ROUNDING)
    assert_close(result.source_latents, plain_decode(two_pass_engine, kept.latents, SOURCE))


@pytest.mark.parametrize(("anchor", "rows"), [(0.0, [3, 3, 3, 2, 3, 2]), (1.0, [6, 2, 2, 2, 2, 2])])
def test_two_pass_model_predicts_twice_on_guided_hops_only(two_pass_engine, anchor, rows):
    with recorded(two_pass_engine) as seen:
        result = two_pass_engine.edit(
            picture(), SOURCE, [TARGET, OTHER], guidance_scale=4.0, tau=0.6, anchor=anchor
        )
        assert seen["encode"] == [1, 1, 1, 1]
        assert seen["decode"] == rows  # w(999) = w(779) = 0
        assert result.network_calls == 10
        seen["decode"].clear()
        assert (
            result.inversion.edit(TARGET, guidance_scale=0.0, anchor=anchor).network_calls
            == len(seen["decode"])
            == 4
        )


@pytest.mark.parametrize("detail", [0.0, 1.0])
def test_output_types_agree(small_engine, inversion, detail):
    """But for rounding to bytes, where detail is added once before and once after."""
    pil, array, tensor, latent = (
        inversion.edit([TARGET, OTHER], output_type=kind, detail=detail).images
        for kind in ("pil", "np", "pt", "latent")
    )
    assert [image.mode for image in pil] == ["RGB", "RGB"]
    assert array.shape == (2, 64, 64, 3)
    assert tensor.shape == (2, 3, 64, 64)
    assert array.dtype == np.float32 and array.min() >= 0 and array.max() <= 1
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert (
        np.abs(np.stack([np.asarray(image) for image in pil]) / 255 - array).max()
        <= (0.5 + 0.5 * detail) / 255 + 1e-6
    )
    assert torch.equal(latent, inversion.edit([TARGET, OTHER]).latents)


def test_bfloat16_runs_near_float32(small_bundle, inversion):
    engine = Engine.from_pretrained(small_bundle, device="cpu", dtype="bfloat16")
    result = engine.edit(picture(), SOURCE, TARGET, seed=3, blend=("cat", "dog"))
    exact = inversion.edit(TARGET, control="none").source_latents
    assert result.latents.dtype == torch.float32
    # The rounding is 2^15 times float32's, whose errors here stay below 1e-5; the worst seen was
    # 0.1.
    assert_close(result.source_latents, exact, 0.3)
    assert result.image.size == (64, 64)


@pytest.mark.parametrize(
    "options, named",
    [
        ({"device": "tpu"}, "tpu"),
        ({"device": "mps"}, "mps"),
        ({"dtype": "int8"}, "int8"),
        ({"runner": "fast"}, "fast"),
    ],
    ids=str,
)
def test_unknown_device_dtype_or_runner(small_bundle, options, named):
    with pytest.raises(RunnerError, match=named):
        Engine.from_pretrained(small_bundle, **options)


@pytest.mark.parametrize(
    "options, named",
    [
        ({"device": []}, "device must be a name"),
        ({"dtype": torch.float16}, "dtype must be a name, not torch.float16"),
        ({"runner": {}}, "runner must be a name"),
        ({"weights": None}, "weights must be a name, not None"),
        ({"offload": "no"}, "offload must be True or False, not 'no'"),
        ({"vae_tiling": 1}, "vae_tiling must be True or False, not 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_of_another_kind(small_bundle, options, named):
    with pytest.raises(RunnerError, match=named):
        Engine.from_pretrained(small_bundle, **options)
    with pytest.raises(RunnerError, match=named):
        icd_engine.edit(picture(), SOURCE, TARGET, model=small_bundle, **options)


def test_unknown_model(tmp_path):
    for model in ("huge", tmp_path):
        with pytest.raises(BundleError, match=str(model)):
            Engine.from_pretrained(model)
