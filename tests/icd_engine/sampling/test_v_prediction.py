"""Hops of networks that predict v = a_t eps - sigma_t x_0: another A and B."""

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import DDIMScheduler

from icd_engine.errors import SettingsError
from icd_engine.sampling.schedule import CHAIN, NoiseSchedule

CONFIG = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
V = CONFIG | {"prediction_type": "v_prediction"}
ZERO_SNR = V | {"rescale_betas_zero_snr": True}
DATA = np.random.default_rng(0).standard_normal((2, 64))
EXACT = 1e-13  # of float64, on numbers of about one


def share(schedule: NoiseSchedule, t: int, boundary: bool) -> tuple[float, float]:
    clean = boundary and t == 0
    return (1.0, 0.0) if clean else (schedule.a(t), schedule.sigma(t))


@pytest.mark.parametrize("config", [V, ZERO_SNR], ids=["as trained", "zero snr"])
def test_a_hop_takes_true_latents_to_true_latents(config):
    """In float64, from what noise and picture are: no formula of the hop's own."""
    schedule = NoiseSchedule.from_config(config)
    picture, eps = DATA
    hops = [*schedule.encode_hops(), *schedule.decode_hops(), *schedule.encode_hops((0, *CHAIN))]
    for hop in hops:
        a, sigma = share(schedule, hop.t, boundary=False)
        x = a * picture + sigma * eps
        a_s, sigma_s = share(schedule, hop.s, boundary=True)
        reached = hop.A * x + hop.B * (a * eps - sigma * picture)
        np.testing.assert_allclose(reached, a_s * picture + sigma_s * eps, atol=EXACT)
        np.testing.assert_allclose(schedule.noise(hop, x, reached), eps, atol=1e-11)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [2, 4, 10])
def test_hops_down_are_diffusers_ddim(prediction, steps):
    """Of any prediction, right or wrong; eta is 0, and below 0 lies the clean picture."""
    config = CONFIG | {"prediction_type": prediction}
    scheduler = DDIMScheduler(**config, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    schedule = NoiseSchedule.from_config(config)
    x, predicted = DATA
    for t in scheduler.timesteps.tolist():
        hop = schedule.hop(t, max(t - 1000 // steps, 0))
        theirs = scheduler.step(torch.from_numpy(predicted), t, torch.from_numpy(x)).prev_sample
        # their a and sigma are roots taken in float32
        np.testing.assert_allclose(hop.A * x + hop.B * predicted, theirs, rtol=1e-5, atol=1e-5)


def test_both_predictions_are_one_model():
    """v of a noise predictor's eps gives its hop."""
    noise = NoiseSchedule.from_config(CONFIG)
    schedule = NoiseSchedule.from_config(V)
    x, eps = DATA
    for own, other in zip(schedule.decode_hops(), noise.decode_hops(), strict=True):
        a, sigma = schedule.a(own.t), schedule.sigma(own.t)
        v = (eps - sigma * x) / a  # eps = sigma x + a v
        np.testing.assert_allclose(own.A * x + own.B * v, other.A * x + other.B * eps, atol=1e-12)
        reached = other.A * x + other.B * eps
        np.testing.assert_allclose(noise.noise(other, x, reached), eps, atol=1e-12)


def test_noise_prediction_cannot_begin_at_noise_alone():
    schedule = NoiseSchedule.from_config(CONFIG | {"rescale_betas_zero_snr": True})
    hop = schedule.encode_hops()[-1]
    assert (hop.A, hop.B) == (0.0, 1.0)  # up to it: what is reached is the noise predicted
    with pytest.raises(SettingsError, match=r"999 is noise alone.*prediction_type v_prediction"):
        schedule.decode_hops()
    assert schedule.decode_hops((259, 519, 779))[0].t == 779
