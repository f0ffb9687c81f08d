"""Metrics against values worked out by hand."""

import numpy as np
import pytest

from benchmarks.evaluation import metrics

BLACK, GREY = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 51, np.uint8)  # a fifth of 255


def test_errors_of_level_pictures():
    assert metrics.mse(BLACK, GREY) == pytest.approx(0.04)
    assert metrics.psnr(BLACK, GREY) == pytest.approx(10 * np.log10(25))
    assert metrics.psnr(GREY, GREY) == pytest.approx(90)


def test_errors_over_a_part():
    half = np.zeros((4, 4), bool)
    half[:2] = True
    mixed = np.where(half[..., None], BLACK, GREY)
    assert (
        metrics.mse(mixed, GREY, half) == pytest.approx(0.04)
        and metrics.mse(mixed, GREY, ~half) == 0
    )
    assert metrics.mse(metrics.masked(mixed, half), metrics.masked(GREY, half)) == 0
    assert metrics.mse(metrics.masked(mixed, ~half), metrics.masked(GREY, ~half)) == pytest.approx(
        0.02
    )


def test_pixels_outside_of_a_mask_are_equal_in_every_channel_or_not():
    mask = np.zeros((4, 4), bool)
    mask[:2] = True
    edited = BLACK.copy()
    edited[0] = 200  # within: of no account
    edited[3, 0, 2] = 1
    assert metrics.outside_equal(BLACK, BLACK, mask) == 1.0
    assert metrics.outside_equal(edited, BLACK, mask) == 7 / 8


def test_changed_share_counts_what_should_change_only():
    source, truth, edited = BLACK.copy(), BLACK.copy(), BLACK.copy()
    truth[0] = 200
    edited[0, :3] = 150  # three of four pixels nearer to the truth
    edited[3] = 99  # elsewhere: of no account here
    assert metrics.changed_share(edited, source, truth) == 0.75


def test_ssim_where_torchmetrics_is_there(monkeypatch):
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    value = metrics.ssim(picture, picture)
    assert value is None or value == pytest.approx(1.0)
    monkeypatch.setattr(metrics, "_ssim", lambda: None)
    assert metrics.ssim(picture, picture) is None
