"""The path of an edit against plain loops over the networks: every number here has a second way to
get it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

import icd_engine
from icd_engine.engine import Engine
from icd_engine.errors import (
    BundleError,
    IcdError,
    ImageError,
    PromptError,
    RunnerError,
    SettingsError,
)
from icd_engine.images import to_model_range
from icd_engine.results import EditRequest
from icd_engine.sampling.schedule import NoiseSchedule
from icd_engine.settings import EditSettings
from tests.icd_engine.plain_loops import (
    ENCODE,
    OTHER,
    ROUNDING,
    SOURCE,
    TARGET,
    assert_close,
    hop,
    mixed_requests,
    picture,
    plain_decode,
)


def test_inversion_is_noise_then_upward_hops(small_engine, inversion):
    schedule = NoiseSchedule.scaled_linear()
    with torch.no_grad():
        x = small_engine.runner.vae.to_latents(
            torch.from_numpy(to_model_range(picture(), (64, 64)))
        )
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(3))
    x = schedule.a(19) * x + schedule.sigma(19) * noise
    for t, s in pairwise(ENCODE):
        x = hop(small_engine, small_engine.runner.encode_network, x, t, s, SOURCE, w=0.0)
    assert_close(inversion.latents, x)


@pytest.mark.parametrize("target", [TARGET, OTHER], ids=["same_length", "longer"])
def test_without_control_each_row_is_a_plain_decoding(small_engine, inversion, target):
    result = inversion.edit(target, control="none", guidance_scale=7.0, tau=0.8, anchor=0.0)
    assert_close(
        result.latents, plain_decode(small_engine, inversion.latents, target, w=7.0, tau=0.8)
    )
    assert_close(result.source_latents, plain_decode(small_engine, inversion.latents, SOURCE))


@pytest.mark.parametrize("anchor", [0.0, 1.0])
@pytest.mark.parametrize("control", ["replace", "refine", "none"])
def test_source_as_target_reconstructs(inversion, control, anchor):
    """Unguided, with S_k + diag(d_k) = 1 on equal prompts, both rows compute the same. Random weights
    miss the trajectory by up to 16 times the latents at its end: so much is added, and rounded."""
    result = inversion.edit(
        SOURCE,
        control=control,
        cross_replace=0.6,
        self_replace=0.6,
        guidance_scale=0.0,
        anchor=anchor,
    )
    tolerance = ROUNDING * (16 if anchor else 1)
    assert_close(result.latents, result.source_latents, tolerance)


@pytest.mark.parametrize("size", [(64, 64), (150, 90)])
def test_an_edit_that_changes_nothing_is_the_picture(small_engine, size):
    """At its own resolution, though the VAE and the model's size lose most of random pixels."""
    pixels = np.random.default_rng(9).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    same = {"control": "none", "guidance_scale": 0.0}
    result = small_engine.edit(pixels, SOURCE, SOURCE, **same)
    assert np.abs(np.asarray(result.image).astype(int) - pixels).max() <= 2
    decoded = small_engine.edit(pixels, SOURCE, SOURCE, **same, detail=0.0)
    assert np.abs(np.asarray(decoded.image).astype(int) - pixels).max() > 40
    assert torch.equal(decoded.latents, result.latents)
    assert (result.settings.detail, decoded.settings.detail) == (1.0, 0.0)


def test_detail_is_as_great_as_the_anchor(inversion):
    assert inversion.edit(TARGET, anchor=0.0).settings.detail == 0
    assert inversion.edit(TARGET, anchor=0.25).settings.detail == 0.25
    assert inversion.edit(TARGET, anchor=0.0, detail=0.5).settings.detail == 0.5


def test_detail_asked_for_late_is_that_of_a_new_edit(small_engine):
    """The inversion of an edit without it has not decoded the picture."""
    plain = small_engine.edit(picture(), SOURCE, TARGET, anchor=0.0)
    assert plain.inversion.decoded is None
    first = small_engine.edit(picture(), SOURCE, TARGET, anchor=0.0, detail=1.0)
    assert np.array_equal(plain.inversion.reconstruction, first.inversion.reconstruction)
    late = plain.inversion.edit(TARGET, anchor=0.0, detail=1.0).image
    # Without the source rows beside it, which may round a value the other way
    assert np.abs(np.asarray(late).astype(int) - np.asarray(first.image)).max() <= 1


def test_control_changes_the_edit(inversion):
    plain, controlled = (
        inversion.edit(TARGET, control=c, cross_replace=0.8).latents for c in ("none", "replace")
    )
    assert float((plain - controlled).abs().max()) > 1e-2 * float(plain.abs().max())


@pytest.mark.parametrize("guidance_scale", [0.0, 3.0, 19.0])
def test_source_row_is_never_guided(small_engine, inversion, guidance_scale):
    result = inversion.edit([TARGET, OTHER], guidance_scale=guidance_scale, tau=1.0, anchor=0.0)
    assert_close(result.source_latents, plain_decode(small_engine, inversion.latents, SOURCE))


@pytest.mark.parametrize("anchor", [0.0, 1.0])
def test_same_seed_is_bit_equal_and_another_differs(small_engine, anchor):
    """Anchored, random weights are held so near to the picture that seeds tell in the noise."""
    first, again, other = (
        small_engine.edit(picture(), SOURCE, TARGET, seed=seed, anchor=anchor) for seed in (5, 5, 6)
    )
    assert torch.equal(first.latents, again.latents)
    assert np.array_equal(first.image, again.image)
    ours, theirs = (
        result.inversion.latents if anchor else result.latents for result in (first, other)
    )
    assert float((ours - theirs).abs().max()) > 1e-2 * float(ours.abs().max())


def test_several_targets_equal_single_edits(inversion):
    settings = {
        "cross_replace": 0.6,
        "self_replace": 0.6,
        "blend": (["cat", "sits"], "sits"),
        "amplify": {"mat": 2.0},
    }
    together = inversion.edit([TARGET, OTHER, SOURCE], **settings)
    for row, target in enumerate([TARGET, OTHER, SOURCE]):
        alone = inversion.edit(target, **settings)
        assert_close(together.latents[row : row + 1], alone.latents)
        assert torch.equal(together.hop_masks[:, row], alone.hop_masks[:, 0])


def test_result_settings_repeat_the_edit(small_engine):
    settings = {
        "blend": ("cat", "dog"),
        "amplify": {"dog": 3.0},
        "cross_replace": {"dog": (0.2, 0.9)},
        "seed": 4,
    }
    first = small_engine.edit(picture(), SOURCE, TARGET, mask=np.tri(64), **settings)
    used = {name: getattr(first.settings, name) for name in EditSettings.__dataclass_fields__}
    assert {name for name, value in used.items() if value is None} == {"mask_alpha", "mask_from"}
    assert torch.equal(small_engine.edit(picture(), SOURCE, TARGET, **used).latents, first.latents)
    assert_close(first.inversion.edit(TARGET, **used).latents, first.latents)


def test_other_sizes(small_engine):
    result = small_engine.edit(picture(), SOURCE, TARGET, size=(96, 64), blend=("cat", "dog"))
    assert result.latents.shape == (1, 4, 8, 12)
    assert result.hop_masks.shape == (4, 1, 8, 12)
    assert result.image.size == result.reconstruction.size == (96, 64)


def test_generation_is_a_plain_decoding_of_noise(small_engine):
    prompts = ["a big blue bird", "a red cat"]
    latents = small_engine.generate(
        prompts, seed=9, guidance_scale=7.0, tau=0.8, output_type="latent"
    )
    for row, prompt in enumerate(prompts):
        noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(9 + row))
        expected = plain_decode(small_engine, noise, prompt, w=7.0, tau=0.8)
        assert_close(latents[row : row + 1], expected)
    assert [image.size for image in small_engine.generate(prompts[0])] == [(64, 64)]


def test_reconstruction_is_decoded_on_first_use(small_engine, monkeypatch):
    result = small_engine.edit(picture(), SOURCE, TARGET)
    runner, calls = small_engine.runner, []
    to_pixels = runner.to_pixels
    monkeypatch.setattr(
        runner, "to_pixels", lambda latents: calls.append(len(latents)) or to_pixels(latents)
    )
    assert calls == []
    first, again = result.reconstruction, result.reconstruction
    assert first is again
    assert calls == [1]


def test_threads_on_one_engine_equal_serial_edits(small_engine):
    def run(request: EditRequest) -> Tensor:
        given = {
            name: getattr(request.settings, name) for name in EditSettings.__dataclass_fields__
        }
        return small_engine.edit(request.image, request.source, request.target, **given).latents

    def run_together(request: EditRequest) -> Tensor:
        start.wait()
        return run(request)

    requests = mixed_requests()[:4]
    serial = [run(request) for request in requests]
    start = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(2):
            assert all(map(torch.equal, pool.map(run_together, requests), serial))


def test_results_are_ordinary_tensors(inversion):
    """Nothing handed out is an inference tensor: those refuse changes in place and gradients."""
    result = inversion.edit(TARGET, output_type="latent", blend=("cat", "dog"))
    tensors = (
        inversion.latents,
        result.latents,
        result.source_latents,
        result.hop_masks,
        result.images,
    )
    assert not any(tensor.is_inference() for tensor in tensors)


def test_all_errors_are_one_family():
    assert all(
        issubclass(e, IcdError)
        for e in (BundleError, ImageError, PromptError, RunnerError, SettingsError)
    )


def test_package_hands_out_the_engine():
    assert icd_engine.Engine is Engine
    assert icd_engine.EditRequest is EditRequest
    with pytest.raises(AttributeError, match="Motor"):
        _ = icd_engine.Motor


def test_package_edit_loads_a_model_once(small_engine, small_bundle):
    results = [
        icd_engine.edit(picture(), source=SOURCE, target=TARGET, model=model, device="cpu", seed=1)
        for model in (small_bundle, str(small_bundle))
    ]
    assert results[0].inversion.engine is results[1].inversion.engine
    assert torch.equal(
        results[0].latents, small_engine.edit(picture(), SOURCE, TARGET, seed=1).latents
    )
