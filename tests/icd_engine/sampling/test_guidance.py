"""w(t) at the published schedules, and the embedding of w against float64."""

import numpy as np
import pytest

from icd_engine.errors import SettingsError
from icd_engine.sampling.guidance import dynamic_guidance, guidance_embedding

CHAIN_A = (999, 779, 519, 259)


@pytest.mark.parametrize(
    ("tau", "expected"),
    [
        (0.8, [0, 19, 19, 19]),
        (0.7, [0, 0, 19, 19]),
        (1.0, [19, 19, 19, 19]),
        (0.0, [0, 0, 0, 0]),
        ((0.7, 0.7), [0, 0, 19, 19]),
        ((0.519, 0.999), [0, 19 * 0.22 / 0.48, 19, 19]),
    ],
    ids=["published", "tau-0.7", "constant", "never", "pair-as-step", "ramp"],
)
def test_chain_a(tau, expected):
    assert [dynamic_guidance(t, 19.0, tau) for t in CHAIN_A] == pytest.approx(expected)


def test_interval_is_off_at_both_ends():
    assert [dynamic_guidance(t, 7.0, 0.8, tau_low=0.3) for t in CHAIN_A] == [0, 7, 7, 0]


def test_tau1_is_tested_first():
    assert dynamic_guidance(500, 7.0, (0.5, 0.5)) == 7.0
    assert dynamic_guidance(500, 7.0, (0.5, 0.5), tau_low=0.5) == 7.0


def test_shares_are_of_the_schedules_own_steps():
    assert dynamic_guidance(400, 7.0, 0.5, steps=800) == 7.0
    assert dynamic_guidance(401, 7.0, 0.5, steps=800) == 0.0


@pytest.mark.parametrize("dim", [512, 256, 15])
def test_embedding_against_float64(dim):
    """float32 rounds the exponent k rate (so exp by that much times its size), the frequency and
    the phase."""
    w = np.array([0.0, 1.5, 7.0, 19.0])
    half = dim // 2
    exponent = np.arange(half) * np.log(10000.0) / (half - 1)
    phases = 1000.0 * w[:, None] * np.exp(-exponent)
    tolerance = np.finfo(np.float32).eps * (phases * (2 * exponent + 3) + 2)
    embedding = guidance_embedding(w, dim)
    assert embedding.dtype == np.float32 and embedding.shape == (4, dim)
    assert (np.abs(embedding[:, :half] - np.sin(phases)) <= tolerance).all()
    assert (np.abs(embedding[:, half : 2 * half] - np.cos(phases)) <= tolerance).all()
    assert (embedding[:, 2 * half :] == 0).all()


def test_unguided_embedding_is_zeros_and_ones():
    assert (guidance_embedding([0.0]) == np.repeat([0, 1], 256)).all()


@pytest.mark.parametrize(
    ("w", "dim"), [([np.nan], 512), ([np.inf], 512), ([[1.0]], 512), ([1.0], 3)]
)
def test_bad_input(w, dim):
    with pytest.raises(SettingsError, match="guidance"):
        guidance_embedding(w, dim)
