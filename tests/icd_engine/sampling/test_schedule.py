"""Hops against the published coefficients of both chains and the three-step schedule."""

import numpy as np
import pytest

from icd_engine.errors import SettingsError
from icd_engine.sampling.schedule import Hop, NoiseSchedule

SCHEDULE = NoiseSchedule.scaled_linear()
# The values below are printed to five digits, from a schedule in float64; ours has float32
# roundings
DIGIT = 1e-5

CHAIN_A_DECODE = {
    (999, 779): (3.07975, -2.09492),
    (779, 519): (2.38574, -1.46730),
    (519, 259): (1.61845, -0.81617),
    (259, 0): (1.23187, -0.71938),
}
CHAIN_A_ENCODE = {
    (19, 259): (0.81908, 0.47483),
    (259, 519): (0.61788, 0.50429),
    (519, 779): (0.41916, 0.61503),
    (779, 999): (0.32470, 0.68022),
}
CHAIN_B_DECODE = {
    (999, 699): (4.22354, -3.25616),
    (699, 499): (1.82764, -0.90012),
    (499, 249): (1.55965, -0.75584),
    (249, 0): (1.21677, -0.69320),
}
THREE_STEPS_DECODE = {
    (999, 699): (4.22354, -3.25616),
    (699, 339): (2.51281, -1.71683),
    (339, 0): (1.38027, -0.95140),
}


@pytest.mark.parametrize(
    ("hops", "table"),
    [
        (SCHEDULE.decode_hops(), CHAIN_A_DECODE),
        (SCHEDULE.encode_hops(), CHAIN_A_ENCODE),
        (SCHEDULE.decode_hops((249, 499, 699, 999)), CHAIN_B_DECODE),
        (SCHEDULE.decode_hops([339, 699, 999]), THREE_STEPS_DECODE),
    ],
    ids=["A-decode", "A-encode", "B-decode", "three-steps-decode"],
)
def test_published_coefficients(hops, table):
    assert [(hop.t, hop.s) for hop in hops] == list(table)
    for hop in hops:
        np.testing.assert_allclose((hop.A, hop.B), table[hop.t, hop.s], atol=DIGIT, rtol=0)


def test_noise_at_the_first_encode_step():
    assert (SCHEDULE.a(19), SCHEDULE.sigma(19)) == pytest.approx(
        (0.99108, 0.13325), abs=DIGIT, rel=0
    )


@pytest.mark.parametrize(
    "hop", [*SCHEDULE.encode_hops(), *SCHEDULE.decode_hops()], ids=lambda h: f"{h.t}-{h.s}"
)
def test_hop_is_the_boundary_update(hop):
    """With the true noise as eps, a hop takes a_t x + sigma_t eps to a_s x + sigma_s eps."""
    rng = np.random.default_rng(0)
    x, eps = rng.standard_normal((2, 64))
    a_s, sigma_s = (1.0, 0.0) if hop.s == 0 else (SCHEDULE.a(hop.s), SCHEDULE.sigma(hop.s))
    moved = hop.A * (SCHEDULE.a(hop.t) * x + SCHEDULE.sigma(hop.t) * eps) + hop.B * eps
    np.testing.assert_allclose(moved, a_s * x + sigma_s * eps, atol=1e-13)


def test_step_zero_is_clean_only_as_a_boundary():
    assert SCHEDULE.a(0) == pytest.approx(np.sqrt(1 - 0.00085))
    np.testing.assert_allclose(SCHEDULE.hop(259, 0).A, 1 / SCHEDULE.a(259), rtol=1e-14)
    start = SCHEDULE.encode_hops((0, 259, 519, 779))[0]
    np.testing.assert_allclose(start.A, SCHEDULE.a(259) / SCHEDULE.a(0), rtol=1e-14)


def test_schedule_is_a_value():
    assert NoiseSchedule.scaled_linear() == SCHEDULE and len(SCHEDULE.alphas_cumprod) == 1000
    assert SCHEDULE.hop(np.int64(999), 779) == Hop(
        999, 779, SCHEDULE.hop(999, 779).A, SCHEDULE.hop(999, 779).B
    )


def test_the_list_of_the_caller_stays_as_it_is():
    times = [259, 519, 779, 999]
    SCHEDULE.decode_hops(times)
    assert times == [259, 519, 779, 999]


@pytest.mark.parametrize("t", [-1, 1000, 19.0, True, "19", None])
def test_unknown_time_step(t):
    with pytest.raises(SettingsError, match="time step"):
        SCHEDULE.a(t)
    with pytest.raises(SettingsError, match="time step"):
        SCHEDULE.hop(999, t)


@pytest.mark.parametrize(
    "times", [(), (519, 259, 999), (259, 259, 999), (0, 259), (259, 1000), (259.0, 999), ("a",)]
)
def test_decode_steps_that_do_not_rise(times):
    with pytest.raises(SettingsError, match="time step"):
        SCHEDULE.decode_hops(times)


@pytest.mark.parametrize("times", [(), (519, 259), (19, 999), (-1, 259)])
def test_encode_steps_that_do_not_rise(times):
    with pytest.raises(SettingsError, match="time step"):
        SCHEDULE.encode_hops(times)


@pytest.mark.parametrize("betas", [(0, 0.012), (0.012, 0.00085), (0.1, 1.0)])
def test_impossible_schedule(betas):
    with pytest.raises(SettingsError, match="beta"):
        NoiseSchedule.scaled_linear(*betas)


def test_table_is_the_one_published_models_were_trained_with():
    """Bit for bit diffusers' float32 table, by torch's own linspace and cumprod."""
    from diffusers import DDPMScheduler

    trained = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    ).alphas_cumprod
    assert list(SCHEDULE.alphas_cumprod) == trained.double().tolist()


def test_a_scheduler_s_configuration_says_the_steps():
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    assert NoiseSchedule.from_config(config) == SCHEDULE and SCHEDULE.steps == 1000
    short = NoiseSchedule.from_config(config | {"num_train_timesteps": 800})
    assert short.steps == 800
    assert short.encode_hops()[-1].s == short.decode_hops()[0].t == 799


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid' is not supported .only scaled_lin"),
        ({"beta_schedule": None}, "beta_schedule None is not supported"),
        ({"beta_start": "x"}, "no schedule can be made of it"),
        ({"beta_start": 0.5, "beta_end": 0.4}, "no schedule can be made of it: .*beta_start"),
        ({"prediction_type": "sample"}, "prediction_type 'sample' is not supported"),
    ],
    ids=str,
)
def test_other_configurations_are_refused(change, message):
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    with pytest.raises(SettingsError, match=message):
        NoiseSchedule.from_config(config | change)


def test_a_configuration_without_betas_is_refused():
    with pytest.raises(SettingsError, match="'beta_start'"):
        NoiseSchedule.from_config({"beta_schedule": "scaled_linear"})
