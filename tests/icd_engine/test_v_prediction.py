"""Models that predict v: edits, two-pass guidance and the agreement with a prompt, in plain loops."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from icd_engine.automatic import Agreement
from icd_engine.engine import Engine
from icd_engine.sampling.guidance import guidance_embedding
from icd_engine.sampling.noise import normal_noise
from icd_engine.sampling.schedule import NoiseSchedule
from tests.icd_engine.plain_loops import (
    DECODE,
    ENCODE,
    ROUNDING,
    SOURCE,
    TARGET,
    assert_close,
    picture,
    prompt_features,
)

V = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}


def v_engine(bundle: Path, out: Path) -> Engine:
    """The same random weights, taken for those of a v-model on a schedule that ends in noise."""
    shutil.copytree(bundle, out)
    path = out / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | V))
    record = json.loads((out / "icd.json").read_text()) | {"sha256": {}}
    (out / "icd.json").write_text(json.dumps(record))
    return Engine.from_pretrained(out, device="cpu", dtype="float32", runner="eager")


@pytest.fixture(scope="module", params=["small_bundle", "two_pass_bundle"])
def engine(request, tmp_path_factory) -> Engine:
    return v_engine(request.getfixturevalue(request.param), tmp_path_factory.mktemp("v") / "model")


@torch.no_grad()
def predicted(engine: Engine, unet, x: Tensor, t: int, prompt: str, w: float) -> Tensor:
    """v in float32, guided as noise is: v_u + (1 + w)(v_c - v_u)."""
    time = torch.full((len(x),), float(t))
    features = prompt_features(engine, prompt).expand(len(x), -1, -1)
    if unet.guidance_channels is not None:
        scales = torch.from_numpy(guidance_embedding([w] * len(x), unet.guidance_channels))
        return unet(x, time, features, scales).eps
    empty = prompt_features(engine, "").expand(len(x), -1, -1)
    v = unet(x, time, features).eps
    return v if w == 0 else (1 + w) * v - w * unet(x, time, empty).eps


def hopped(engine: Engine, unet, x: Tensor, t: int, s: int, prompt: str, w: float) -> Tensor:
    """The boundary update in float64, by picture and noise."""
    schedule = engine.model.schedule
    v = predicted(engine, unet, x, t, prompt, w).double()
    a, sigma = schedule.a(t), schedule.sigma(t)
    a_s, sigma_s = (1.0, 0.0) if s == 0 else (schedule.a(s), schedule.sigma(s))
    clean = a * x.double() - sigma * v
    eps = sigma * x.double() + a * v
    return (a_s * clean + sigma_s * eps).float()


def test_the_schedule_is_the_models_own(engine):
    assert engine.model.schedule.prediction == "v_prediction"
    assert engine.model.schedule.a(999) == 0 != NoiseSchedule.scaled_linear().a(999)


def test_encoding_is_the_boundary_update(engine):
    kept = engine.invert(picture(), SOURCE, seed=3)
    schedule = engine.model.schedule
    clean = kept.boundaries[-1]
    noise = torch.from_numpy(normal_noise(3, tuple(clean.shape)))
    x = schedule.a(ENCODE[0]) * clean + schedule.sigma(ENCODE[0]) * noise
    for t, s in pairwise(ENCODE):
        x = hopped(engine, engine.runner.encode_network, x, t, s, SOURCE, 0.0)
    assert_close(kept.latents, x, 2 * ROUNDING)


def test_guided_decoding_is_the_boundary_update(engine):
    """Two predictions: the difference of near ones times w loses a digit."""
    kept = engine.invert(picture(), SOURCE, seed=3)
    result = kept.edit(TARGET, control="none", guidance_scale=4.0, tau=0.8, anchor=0.0)
    x = kept.latents
    own = kept.latents
    for t, s in pairwise(DECODE):
        unet = engine.runner.decode_network
        x = hopped(engine, unet, x, t, s, TARGET, 4.0 if t < 800 else 0.0)
        own = hopped(engine, unet, own, t, s, SOURCE, 0.0)
    assert_close(result.latents, x, 10 * ROUNDING)
    assert_close(result.source_latents, own, 2 * ROUNDING)


def test_agreement_compares_noise(engine):
    """Errors of noise, not of v; in float64 from the network's own v."""
    model = engine.model
    latents = torch.from_numpy(normal_noise(5, (3, *model.latent_shape(model.size)[1:])))
    tokens = [model.tokens(prompt) for prompt in (SOURCE, TARGET)]
    found = Agreement(model, *tokens, model.size)(latents)
    t = DECODE[1]
    a, sigma = model.schedule.a(t), model.schedule.sigma(t)
    noise = torch.from_numpy(normal_noise(0, (1, *latents.shape[1:])))
    x = (a * latents.double() + sigma * noise).float()
    errors = []
    for prompt in (SOURCE, TARGET):
        v = predicted(engine, engine.runner.decode_network, x, t, prompt, 0.0).double()
        errors.append((sigma * x.double() + a * v - noise).square().mean(dim=(1, 2, 3)).numpy())
    scale = float(np.abs(errors).max())
    np.testing.assert_allclose(found, errors[0] - errors[1], rtol=0, atol=10 * ROUNDING * scale)


def test_automatic_settings_work(engine):
    result = engine.edit(picture(), SOURCE, TARGET, settings="auto", seed=3)
    assert len(result.candidates) > 3
    assert all(np.isfinite(one.agreement) for one in result.candidates)
