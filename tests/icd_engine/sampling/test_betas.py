"""Noise of every time step against diffusers' own schedulers, and what is no noise."""

import numpy as np
import pytest

from icd_engine.errors import SettingsError
from icd_engine.sampling.schedule import NoiseSchedule

diffusers = pytest.importorskip("diffusers")

SD = {"beta_start": 0.00085, "beta_end": 0.012}
KINDS = {
    "scaled_linear": SD | {"beta_schedule": "scaled_linear"},
    "linear": {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"},
    "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2"},
    "trained_betas": {"trained_betas": np.geomspace(1e-4, 0.5, 1000).tolist()},
}


def theirs(name: str, config: dict) -> list[float]:
    scheduler = getattr(diffusers, name).from_config(config)
    return scheduler.alphas_cumprod.double().tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
def test_the_table_is_diffusers_own_to_the_last_bit(name, kind):
    own = NoiseSchedule.from_config(KINDS[kind]).alphas_cumprod
    assert list(own) == theirs(name, KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
def test_a_rescaled_table_is_diffusers_own(name, kind):
    """But for torch's square root, which MKL rounds otherwise on some machines: a thousand factors,
    each off by a rounding of float32, walk sqrt(1000) of them."""
    config = KINDS[kind] | {"rescale_betas_zero_snr": True}
    own = NoiseSchedule.from_config(config).alphas_cumprod
    np.testing.assert_allclose(own, theirs(name, config), rtol=0, atol=1000**0.5 * 2**-24)
    assert own[-1] == 0 and own[0] == pytest.approx(1 - first_beta(config), abs=1e-6)


def first_beta(config: dict) -> float:
    unscaled = NoiseSchedule.from_config(config | {"rescale_betas_zero_snr": False})
    return 1 - unscaled.alphas_cumprod[0]


@pytest.mark.parametrize("kind", ["scaled_linear", "linear", "squaredcos_cap_v2"])
def test_other_numbers_of_time_steps(kind):
    for steps in (2, 17, 400):
        config = KINDS[kind] | {"num_train_timesteps": steps}
        own = NoiseSchedule.from_config(config).alphas_cumprod
        assert list(own) == theirs("DDPMScheduler", config)


@pytest.mark.parametrize("rescale", [False, True], ids=["as it is", "zero snr"])
@pytest.mark.parametrize("name", ["PNDMScheduler", "EulerDiscreteScheduler", "LCMScheduler"])
def test_schedulers_that_folders_name_agree(name, rescale):
    """Euler's keeps 2^-24 of the picture where the others keep none, and PNDM cannot rescale."""
    config = KINDS["scaled_linear"] | {"rescale_betas_zero_snr": rescale}
    if name == "PNDMScheduler" and rescale:
        pytest.skip("has no such field")
    own = NoiseSchedule.from_config(config).alphas_cumprod
    np.testing.assert_allclose(own, theirs(name, config), rtol=0, atol=1000**0.5 * 2**-24)


@pytest.mark.parametrize(
    ("betas", "message"),
    [
        ([0.1] * 999, "a list of 1000, one a time step"),
        ("0.1", "a list of 1000, one a time step"),
        ([0.1] * 999 + [1.5], "above 0 and at most 1, not 1.5"),
        ([0.0] * 1000, "above 0 and at most 1, not 0.0"),
        ([float("nan")] * 1000, "above 0 and at most 1, not nan"),
        ([True] * 1000, "above 0 and at most 1, not True"),
        (["x"] * 1000, "above 0 and at most 1, not 'x'"),
    ],
    ids=["short", "text", "above 1", "none", "nan", "switches", "texts"],
)
def test_betas_that_cannot_be_are_refused(betas, message):
    with pytest.raises(SettingsError, match=f"trained_betas must be {message}"):
        NoiseSchedule.from_config({"trained_betas": betas})


def test_noise_that_never_grows_cannot_be_rescaled():
    config = {"trained_betas": [1e-12] * 1000, "rescale_betas_zero_snr": True}
    with pytest.raises(SettingsError, match="rescale_betas_zero_snr needs betas that add noise"):
        NoiseSchedule.from_config(config)
