"""The base a distillation starts from: its schedule, and which folders are one."""

import json
import shutil

import pytest

pytest.importorskip("diffusers")


from icd_engine.errors import BundleError
from icd_engine.sampling.schedule import NoiseSchedule
from training.base import Base


@pytest.fixture
def changed(base, tmp_path):
    """A copy of a base with fields of one of its files replaced."""

    def change(name, **fields):
        folder = tmp_path / "base"
        shutil.copytree(base, folder)
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
        return folder

    return change


def test_the_schedule_is_the_folders(base, changed):
    assert Base(base).schedule == NoiseSchedule.scaled_linear()
    other = Base(changed("scheduler/scheduler_config.json", beta_end=0.02)).schedule
    assert other == NoiseSchedule.scaled_linear(beta_end=0.02)


def test_another_kind_of_schedule_is_refused(changed):
    folder = changed("scheduler/scheduler_config.json", beta_schedule="sigmoid")
    with pytest.raises(BundleError, match="beta_schedule 'sigmoid' is not supported"):
        Base(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prediction_type": "v_prediction"}, "prediction_type 'v_prediction' is not supported"),
        ({"rescale_betas_zero_snr": True}, "time step 999 is noise alone"),
    ],
    ids=["v", "zero snr"],
)
def test_noise_that_is_not_trained_on_is_refused(changed, fields, message):
    folder = changed("scheduler/scheduler_config.json", **fields)
    with pytest.raises(BundleError, match=message):
        Base(folder)


def test_a_folder_saved_from_another_pipeline_is_a_base(changed):
    folder = changed("model_index.json", _class_name="StableDiffusionImg2ImgPipeline")
    assert Base(folder).encode_prompts(["a circle"]).tokens.ndim == 3
