"""Small random networks for other people's methods."""

import pytest
import torch

from benchmarks.evaluation import instruct, inverting, masactrl, noising
from benchmarks.evaluation.diffusion import Diffusion, levels
from icd_engine.engine import Engine
from icd_engine.networks.unet import UNet
from tests.conftest import UNET


@pytest.fixture(scope="session")
def loaded(two_pass_bundle) -> Engine:
    return Engine.from_pretrained(two_pass_bundle, device="cpu")


@pytest.fixture
def model(loaded) -> Diffusion:
    return Diffusion(loaded, loaded.runner.decode_network)


@pytest.fixture
def instructed(loaded) -> Diffusion:
    """A UNet of InstructPix2Pix's kind: eight channels in."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        unet = UNet(UNET | {"time_cond_proj_dim": None, "in_channels": 8})
    return Diffusion(loaded, unet)


@pytest.fixture
def few_steps(monkeypatch) -> None:
    """Six at most."""
    for module in (inverting, instruct, masactrl, noising):
        monkeypatch.setattr(module, "levels", lambda steps=50: levels(min(steps, 6)))
