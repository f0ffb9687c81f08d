"""Nothing is on disk when a published file does not fit, and the error names it."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.convert import convert
from icd_engine.errors import BundleError
from tests.icd_engine.bundles.golden_files import FORWARD, UNET


def refused(published, message: str, **options) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        convert(**published, **options)
    assert "\n" not in str(caught.value)
    assert not list(published["out"].parent.iterdir())


class Payload:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_hostile_teacher_is_not_run(published, tmp_path):
    torch.save({"a": Payload(tmp_path / "proof")}, published["teacher"])
    refused(published, "nothing in it was run")
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5, 0.999])
@pytest.mark.parametrize(
    "name",
    ["forward", "reverse", "base/unet", "base/vae", "base/text_encoder"],
    ids=lambda n: n.replace("/", " "),
)
def test_a_truncated_file_is_refused(published, name, share):
    weights = {"base/text_encoder": "model.safetensors"}.get(name, UNET)
    path = (
        published["base"] / name.removeprefix("base/") / weights if "/" in name else published[name]
    )
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * share))
    refused(published, f"{path.name} is not a whole safetensors file")


def spoil(path: Path, key: str, change) -> None:
    """Replaces one tensor of a safetensors or teacher file; None removes it."""
    pickled = path.suffix == ".pt"
    tensors = dict(torch.load(path, weights_only=True) if pickled else load_file(path))
    value = change(tensors.pop(key, torch.zeros(1)).clone())
    if value is not None:
        tensors[key] = value
    (torch.save if pickled else save_file)(tensors, path)


def with_nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor.view(-1)[-1] = float("nan")
    return tensor


LORA_A = "unet.base_model.model.mid_block.resnets.0.conv1.lora_A.weight"


@pytest.mark.parametrize(
    ("file", "key", "change"),
    [
        ("teacher", "mid_block.resnets.0.conv1.weight", with_nan),
        ("teacher", "mid_block.resnets.0.conv1.weight", lambda t: None),
        ("teacher", "mid_block.resnets.0.conv1.weight", lambda t: t[:-1]),
        ("teacher", "mid_block.resnets.7.conv1.weight", lambda t: t),
        ("teacher", "time_embedding.cond_proj.weight", lambda t: None),
        ("forward", LORA_A, with_nan),
        ("forward", LORA_A, lambda t: None),
        ("reverse", LORA_A, lambda t: t[:, :-1].contiguous()),
        ("reverse", LORA_A.replace("resnets.0", "resnets.7"), lambda t: t),
        ("reverse", "mid_block.lora.weight", lambda t: t),
        ("vae", "decoder.conv_in.bias", with_nan),
        ("text_encoder", "embeddings.token_embedding.weight", with_nan),
    ],
    ids=[
        "teacher nan", "teacher missing", "teacher shape", "teacher unknown", "teacher not distilled", "lora nan",
        "lora alone", "lora shape", "lora module", "lora style", "vae nan", "text nan",
    ],
)  # fmt: skip
def test_a_tensor_that_does_not_fit_is_named(published, file, key, change):
    path = published.get(file)
    if path is None:
        path = published["base"] / file / (UNET if file == "vae" else "model.safetensors")
    spoil(path, key, change)
    # where one of a pair is gone, the one that is left is named
    named = key.replace("lora_A", "lora_[AB]") if file == "forward" else key
    refused(published, f"{path.name}.*'{named}'")


def test_weights_beyond_half_precision_are_named(published):
    spoil(published["teacher"], "conv_out.bias", lambda t: t + 1e6)
    refused(published, "'conv_out.bias' holds NaN or infinity", precision="fp16")


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json", "scheduler/scheduler_config.json", "unet/config.json", "vae/config.json",
        f"vae/{UNET}", "text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/tokenizer_config.json",
    ],
)  # fmt: skip
def test_a_missing_part_of_the_base_is_named(published, name):
    (published["base"] / name).unlink()
    refused(published, f"base: {name} is missing")


def test_a_tokenizer_that_cannot_be_made_is_named(published):
    for name in ("tokenizer.json", "merges.txt"):
        (published["base"] / "tokenizer" / name).unlink()
    refused(published, r"tokenizer/merges\.txt is missing")


def test_base_weights_that_only_look_pickled_are_refused(published):
    folder = published["base"] / "text_encoder"
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(published, r"text_encoder/pytorch_model\.bin is damaged or holds more than tensors")


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        (
            "unet/config.json",
            "addition_embed_type",
            "text_time",
            "tokenizer_2/tokenizer_config.json is missing",
        ),
        ("unet/config.json", "addition_embed_type", "image", "not supported"),
        ("unet/config.json", "in_channels", 9, "in_channels is 9, but other parts make it 4"),
        (
            "scheduler/scheduler_config.json",
            "prediction_type",
            "sample",
            "prediction_type must be 'epsilon' or 'v_prediction', not 'sample'",
        ),
        (
            "scheduler/scheduler_config.json",
            "rescale_betas_zero_snr",
            True,
            "scheduler_config.json: time step 999 is noise alone",
        ),
        (
            "scheduler/scheduler_config.json",
            "trained_betas",
            [0.1, 0.2],
            "scheduler_config.json: trained_betas must be a list of 1000",
        ),
        (
            "scheduler/scheduler_config.json",
            "beta_schedule",
            "sigmoid",
            "scheduler_config.json: beta_schedule 'sigmoid' is not supported",
        ),
        ("unet/config.json", "sample_size", "big", "sample_size"),
    ],
    ids=[
        "sdxl", "other conditions", "inpainting", "sample prediction", "zero snr", "trained betas",
        "sigmoid", "sample size",
    ],
)  # fmt: skip
def test_a_base_of_another_kind_is_refused(published, name, field, value, message):
    path = published["base"] / name
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    refused(published, message)


def test_a_base_without_a_unet_is_named_by_its_pipeline(published):
    path = published["base"] / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": "FluxPipeline"}))
    (published["base"] / "unet").rename(published["base"] / "transformer")
    refused(published, "'FluxPipeline' has no unet: only Stable Diffusion 1.5 and XL")


def test_precision_and_missing_files_are_named(published):
    refused(published, "precision must be one of fp32, fp16, bf16", precision="int8")
    published["forward"].unlink()
    refused(published, f"{FORWARD} is missing")


def test_a_refused_conversion_keeps_the_older_bundle(published):
    before = convert(**published)
    with pytest.raises(BundleError, match="is not empty"):
        convert(**published)
    spoil(published["base"] / "vae" / UNET, "decoder.conv_in.bias", with_nan)
    with pytest.raises(BundleError, match=r"decoder\.conv_in\.bias"):
        convert(**published, overwrite=True)
    assert read_bundle(published["out"], verify=True) == before
    assert [p.name for p in published["out"].parent.iterdir()] == ["out"]
