"""What hops hand to a network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from icd_engine.networks.unet import UNetOutput
from icd_engine.runners import hops
from icd_engine.sampling.schedule import NoiseSchedule
from tests.conftest import SCHEDULER


@pytest.mark.parametrize("on_cuda", [False, True])
def test_networks_see_latents_in_their_dtype_and_memory_order(monkeypatch, on_cuda):
    monkeypatch.setattr(hops, "fused", lambda x: on_cuda)
    seen = []

    def predict(x: Tensor, *_: object) -> UNetOutput:
        seen.append(x)
        return UNetOutput(torch.zeros_like(x), None, None)

    steps = NoiseSchedule.from_config(SCHEDULER).encode_hops((19, 339, 699), 999)
    latents = torch.randn(2, 4, 8, 8)
    shifts = [torch.zeros(2, 3, dtype=torch.bfloat16)] * len(steps)
    passed = hops.encode_hops(predict, latents, torch.zeros(2, 5, 3), shifts, steps)
    order = torch.channels_last if on_cuda else torch.contiguous_format
    assert len(seen) == len(passed) == len(steps)
    assert all(x.dtype == torch.bfloat16 and x.is_contiguous(memory_format=order) for x in seen)
    assert torch.equal(seen[0], latents.bfloat16())
    assert all(x.dtype == torch.float32 for x in passed)
