"""Distillation on a narrow architecture, and its counted cost against torch's own counter."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("diffusers")

from diffusers import UNet2DConditionModel

from benchmarks import distil
from benchmarks.architectures import ARCHITECTURES
from benchmarks.checks import Refused
from icd_engine.networks.text_encoder import PromptFeatures
from training.networks import Students


def test_a_stage_is_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("ICD_BENCHMARK_CACHE", str(tmp_path))
    latents, guidance = [], []
    for row in distil.measure_stages(architecture="small", repeats=1, only="guidance"):
        (latents if row["stage"] == "latents" else guidance).append(row)
    assert not latents and len(guidance) == 1
    assert guidance[0]["step_s"] > 0 and guidance[0]["peak_memory_mib"] > 100
    assert not list(tmp_path.iterdir())  # what it wrote is gone


@pytest.mark.parametrize("stage", ["guidance", "icd"])
def test_counted_work_is_torchs_own(stage):
    """One sample of a stage under torch's counter, which finds up to a tenth less: nothing goes
    back into prompts and the first layers, and checkpointing spares the last of each block. Updates
    of rank 1 are next to nothing."""
    torch.manual_seed(0)
    teacher = UNet2DConditionModel.from_config(ARCHITECTURES["small"]["unet"])
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([5])
    prompt, w = PromptFeatures(torch.randn(1, 77, 32)), torch.tensor([7.0])
    rank = None if stage == "guidance" else 1
    networks = Students(teacher, rank, trained=("forward",), precision="fp32", checkpointing=True)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        # Teacher's and students' passes without gradient
        for _ in range({"guidance": 2, "icd": 2 * 2 + 2}[stage]):
            with torch.no_grad():
                networks.eps("teacher", x, t, prompt, w)
        for _ in range({"guidance": 1, "icd": 2 + 2}[stage]):
            networks.eps("forward", x, t, prompt, w).square().mean().backward()
    cost = distil.counted(stage, "small", 64)["counted_tflop_per_sample"]
    assert 0.9 < counter.get_total_flops() / (cost * 1e12) < 1.05


def test_unknown_names_are_refused():
    for names in ({"architecture": "sd3"}, {"architecture": "small", "only": "sleep"}):
        with pytest.raises(Refused):
            next(iter(distil.measure_stages(**names)))
