"""The base of a conversion: noise of its scheduler reaches the model, whatever its kind."""

import json

import numpy as np
import pytest

from icd_engine.bundles import base
from icd_engine.bundles.convert import convert
from icd_engine.errors import BundleError
from icd_engine.sampling.schedule import NoiseSchedule
from tests.icd_engine.bundles.golden_files import UNET

diffusers = pytest.importorskip("diffusers")


def changed(published, name: str, **fields) -> None:
    path = published["base"] / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        {"beta_schedule": "linear"},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": np.linspace(1e-4, 0.01, 1000).tolist()},
    ],
    ids=["v and zero snr", "linear", "squaredcos_cap_v2", "trained_betas"],
)
def test_the_model_has_the_noise_of_the_bases_scheduler(published, fields):
    changed(published, "scheduler/scheduler_config.json", **fields)
    bundle = convert(**published)
    own = NoiseSchedule.from_config(bundle.config("scheduler"))
    theirs = diffusers.DDPMScheduler.from_pretrained(bundle.path / "scheduler")
    # The rounding of a rescaled table: see sampling/test_betas
    np.testing.assert_allclose(own.alphas_cumprod, theirs.alphas_cumprod, rtol=0, atol=2e-6)
    assert own.prediction == fields.get("prediction_type", "epsilon")


def test_a_base_may_lack_the_unets_weights(published):
    """Its shapes are then those of its configuration: what fits converts, and what does not is named."""
    (published["base"] / "unet" / UNET).unlink()
    bundle = convert(**published)
    assert bundle.difference is not None
    changed(published, "unet/config.json", block_out_channels=[32, 64, 64, 64])
    again = published | {"out": published["out"].with_name("again")}
    with pytest.raises(BundleError, match=r"sd15_cfg_distill\.pt: .* has shape"):
        convert(**again)
    assert not again["out"].exists()


def test_a_configuration_that_diffusers_refuses():
    with pytest.raises(
        BundleError, match=r"unet/config\.json: no network can be made of it: .*Nons"
    ):
        base._shapes_of({"down_block_types": ["Nonsense"] * 4})
