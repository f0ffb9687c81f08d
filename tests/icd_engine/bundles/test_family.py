"""The family of a bundle is what its parts are."""

import json
import re
from pathlib import Path

import pytest

from icd_engine.bundles.bundle import read_bundle, write_bundle
from icd_engine.bundles.family import read_family
from icd_engine.errors import BundleError


@pytest.mark.parametrize("class_name", ["FluxPipeline", None, 3, ["a"]], ids=str)
def test_other_families_are_refused(folder, class_name):
    (folder / "model_index.json").write_text(json.dumps({"_class_name": class_name}))
    (folder / "unet").rename(folder / "transformer")
    with pytest.raises(BundleError, match=r"model_index\.json: .* only .* are supported") as found:
        read_bundle(folder)
    assert str(class_name) in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize("kind", ["image", "text", 3, ["text_time"]], ids=str)
def test_networks_of_other_conditions_are_refused(folder, kind):
    (folder / "unet" / "config.json").write_text(json.dumps({"addition_embed_type": kind}))
    with pytest.raises(BundleError, match=r"unet/config\.json: addition_embed_type .* supported"):
        read_bundle(folder)


@pytest.mark.parametrize("class_name", ["StableDiffusionImg2ImgPipeline", ["my", "Own"], None])
def test_the_family_is_what_the_parts_are(folder, class_name):
    """Not the pipeline that the folder was saved from."""
    (folder / "model_index.json").write_text(json.dumps({"_class_name": class_name}))
    assert read_family(folder).name == "sd15"
    (folder / "unet" / "config.json").write_text(json.dumps({"addition_embed_type": "text_time"}))
    assert read_family(folder).name == "sdxl"


def test_a_family_against_the_model_index_is_refused(folder):
    record = json.loads((folder / "icd.json").read_text())
    (folder / "icd.json").write_text(json.dumps({**record, "family": "sdxl"}))
    with pytest.raises(BundleError, match="family is 'sdxl'"):
        read_bundle(folder)


@pytest.fixture
def sdxl(tmp_path, files, record) -> Path:
    """A whole small bundle of two text encoders."""
    files = {**files, "model_index.json": {"_class_name": "StableDiffusionXLPipeline"}}
    pad = {"model_max_length": 77, "pad_token": "!"}
    files |= {
        "tokenizer_2/tokenizer_config.json": pad,
        "tokenizer_2/tokenizer.json": '{"padding": {}}',
    }
    files |= {
        f"text_encoder_2/{name}": files[f"text_encoder/{name}"]
        for name in ("config.json", "model.safetensors")
    }
    return write_bundle(tmp_path / "sdxl", {**record, "family": "sdxl"}, files.items()).path


def test_sdxl_has_a_second_text_encoder(sdxl):
    bundle = read_bundle(sdxl)
    assert bundle.weights("text_encoder_2") == sdxl / "text_encoder_2" / "model.safetensors"
    assert bundle.config("tokenizer_2")["pad_token"] == "!"
    assert bundle.samples_posterior


@pytest.mark.parametrize("name", ["tokenizer_2/tokenizer.json", "text_encoder_2/model.safetensors"])
def test_sdxls_missing_part_is_named(sdxl, name):
    (sdxl / name).unlink()
    with pytest.raises(BundleError, match=f"{re.escape(name)} is missing"):
        read_bundle(sdxl)


def test_sdxls_tokenizers_share_a_vocabulary(sdxl):
    (sdxl / "tokenizer_2" / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    with pytest.raises(BundleError, match=r"tokenizer_2/tokenizer\.json has another vocabulary"):
        read_bundle(sdxl)
