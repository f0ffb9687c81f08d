"""Peaks of devices: the known ones by name, every other probed in the same run and said to be."""

import pytest
import torch

from benchmarks import roofline
from benchmarks.counting import Work


def test_a_known_device_has_its_measured_peak(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    roofline.peak.cache_clear()
    peak = roofline.peak(torch.device("cuda", 0), torch.bfloat16)
    roofline.peak.cache_clear()
    assert (peak.flops, peak.bandwidth, peak.source) == (790e12, 4.3e12, "measured for NVIDIA H200")


def test_any_other_is_probed(monkeypatch):
    monkeypatch.setattr(roofline, "PROBE_SECONDS", 0.02)
    roofline.peak.cache_clear()
    peak = roofline.peak(torch.device("cpu"), torch.float32)
    roofline.peak.cache_clear()
    assert peak.flops > 1e8 and peak.bandwidth > 1e7
    assert (
        peak.as_dict()["source"]
        == "probed in this run: one matrix product, one convolution, one copy"
    )


@pytest.mark.parametrize(
    ("work", "milliseconds"),
    [(Work("conv", 2_000_000, 10), 2.0), (Work("linear", 10, 500_000), 1.0)],
)
def test_the_longer_of_computing_and_moving_counts(work, milliseconds):
    peak = roofline.Peak(flops=1e9, bandwidth=1e9, source="")
    assert peak.floor_ms([work], itemsize=2) == pytest.approx(milliseconds)
