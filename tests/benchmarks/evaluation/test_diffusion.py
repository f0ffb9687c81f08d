"""The undistilled model: levels, what it refuses, and SDXL's further conditions."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import UNet2DConditionModel

from benchmarks.evaluation.diffusion import Diffusion, down, levels
from benchmarks.evaluation.methods import METHODS
from benchmarks.evaluation.tasks import EditTask
from icd_engine.bundles.convert import convert
from icd_engine.engine import Engine
from icd_engine.errors import BundleError
from icd_engine.runners.contract import TIME_IDS
from tests.benchmarks.evaluation.edits import error

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "sdxl"
ROUNDING = 1e-4  # of float32 over a pass, another order of sums
SOURCE, TARGET = "a photo of a bird", "a photo of a red bird"


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory) -> Engine:
    """On a model folder of SDXL's shape and small random weights."""
    case = json.loads((GOLDEN / "cases.json").read_text())[0]
    bundle = convert(
        base=GOLDEN / "base",
        teacher=GOLDEN / "sdxl_cfg_distill.pt",
        forward=GOLDEN / "iCD-SDXL-forward.safetensors",
        reverse=GOLDEN / "iCD-SDXL-reverse.safetensors",
        out=tmp_path_factory.mktemp("sdxl") / "bundle",
        encode_times=case["forward"],
        decode_times=case["reverse"],
    )
    return Engine.from_pretrained(bundle.path, device="cpu", dtype="float32", runner="eager")


def test_levels_are_the_grid_of_ddim():
    assert levels()[:3] == [0, 19, 39] and levels()[-1] == 999 and len(levels()) == 51
    assert levels(4)[-1] == 999 and len(levels(4)) == 5 and set(levels(4)) <= set(levels())
    assert list(down([0, 19, 999])) == [(999, 19), (19, 0)]


def test_a_distilled_network_is_no_teacher(small_engine):
    with pytest.raises(BundleError, match="no teacher"):
        Diffusion.load(small_engine, small_engine.bundle.path / "unet")


def test_a_network_of_sdxl_sees_pooled_features_and_sizes(sdxl):
    """Against the stock module on the same folder, one prompt for both rows and one for each."""
    model = Diffusion.load(sdxl, GOLDEN / "base" / "unet")
    stock = UNet2DConditionModel.from_pretrained(GOLDEN / "base" / "unet").eval()
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    for texts in ((TARGET,), (SOURCE, TARGET)):
        features = model.features(*texts)
        assert features.pooled is not None
        added = {
            "text_embeds": features.pooled.expand(2, -1),
            "time_ids": torch.tensor([TIME_IDS, TIME_IDS]),
        }
        with torch.no_grad():
            expected = stock(
                x, 500, features.tokens.expand(2, -1, -1), added_cond_kwargs=added
            ).sample
            assert error(model.eps(x, 500, features), expected) <= ROUNDING
    other = features._replace(pooled=features.pooled.flip(0))
    with torch.no_grad():
        assert error(model.eps(x, 500, other), expected) > ROUNDING


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("name", ["sdedit", "renoise", "masactrl"])
def test_methods_run_on_sdxl(sdxl, name):
    model = Diffusion.load(sdxl, GOLDEN / "base" / "unet")
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outcome = METHODS[name](model, EditTask(latents, SOURCE, TARGET, 4.0))
    assert outcome.edited.shape == latents.shape and outcome.edited.isfinite().all()


def test_a_network_of_sdxl_needs_its_text_encoders(loaded):
    """Of a model folder of SD1.5's kind; the widths of the two need not even differ."""
    model = Diffusion.load(loaded, loaded.bundle.path / "unet")
    model.unet.addition_channels = 8
    with pytest.raises(BundleError, match="pooled features"):
        model.eps(torch.zeros(1, 4, 8, 8), 500, model.features(SOURCE))
