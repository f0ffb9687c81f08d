"""Presets are whole and the paper's; overrides reach every number; what does not fit is named."""

import json

import pytest

from icd_engine.errors import SettingsError
from training.config import PRESETS, read_config


@pytest.mark.parametrize("name", sorted(path.stem for path in PRESETS.glob("*.json")))
def test_presets_are_whole(name):
    config = read_config(name)
    assert config.chain.end == 999 and config.icd.steps > 0
    assert config.icd.batch % config.icd.accumulate == 0


@pytest.mark.parametrize("name", ["sd15_3steps", "sd15_4steps", "sdxl_4steps"])
def test_published_models_have_the_papers_numbers(name):
    config = read_config(name)
    assert (config.lora_rank, config.lora_alpha, config.icd.lr) == (64, 8.0, 8e-6)
    assert (config.preserve.forward, config.preserve.reverse, config.distance) == (
        1.5,
        1.5,
        "huber",
    )
    assert config.icd.batch % (8 * config.icd.accumulate) == 0  # sized for eight GPUs


def test_overrides():
    config = read_config(
        "tiny", ["icd.batch=64", "chain.encode_times=[19,519]", "distance=l2", "lora_rank=8"]
    )
    assert config.icd.batch == 64 and config.chain.encode_times == (19, 519)
    assert config.distance == "l2" and config.lora_rank == 8
    assert read_config("tiny", ["icd.ema=null", "icd.lr=1"]).icd.ema is None


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.json"
    recipe = {"samples": 8, "batch": 4, "lr": 1e-3}
    path.write_text(json.dumps({"size": 64, "guidance": recipe, "icd": recipe, "cycle": recipe}))
    assert read_config(str(path)).icd.steps == 2


@pytest.mark.parametrize(
    "override, message",
    [
        ("icd.batsh=3", "icd.batsh is no field"),
        ("icd.batch=three", "icd.batch must be int, not 'three'"),
        ("icd.batch=true", "icd.batch must be int"),
        ("icd.batch=1.5", "icd.batch must be int"),
        ("icd.batch=0", "icd: batch must be at least 1"),
        ("icd.accumulate=3", "icd: batch 16 must be a multiple"),
        ("icd.precision=fp8", "precision must be one of"),
        ("icd=3", "icd.* must be an object"),
        ("distance=l3", "distance must be one of huber, l2"),
        ("chain.encode_times=19", "must be a list"),
        ("chain.encode_times=[19,20]", "grid"),
        ("w.scales=[]", "w: scales must be"),
        ("lora_rank=0", "lora_rank must be at least 1"),
        ("size", "NAME=VALUE"),
        ("icd.batch.more=1", "batch has no fields"),
    ],
)
def test_what_does_not_fit_is_named(override, message):
    with pytest.raises(SettingsError, match=message) as caught:
        read_config("tiny", [override])
    assert "\n" not in str(caught.value)


def test_an_unknown_preset_lists_the_known():
    with pytest.raises(SettingsError, match=r"sd15_4steps.*tiny"):
        read_config("sd2")


def test_a_broken_file(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(SettingsError, match="not readable JSON"):
        read_config(str(tmp_path / "a.json"))
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(SettingsError, match="must be an object"):
        read_config(str(tmp_path / "b.json"))
