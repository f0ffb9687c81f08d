"""Published files -> a bundle: right weights in stock folders, and nothing on disk when a file does
not fit."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.convert import convert
from icd_engine.bundles.files import read_weights
from icd_engine.errors import BundleError
from icd_engine.settings import EditSettings

UNET = "diffusion_pytorch_model.safetensors"
FORWARD, REVERSE, TEACHER = (
    "iCD-SD15-forward.safetensors",
    "iCD-SD15-reverse.safetensors",
    "sd15_cfg_distill.pt",
)


@pytest.fixture(scope="module")
def converted(golden, tmp_path_factory):
    out = tmp_path_factory.mktemp("convert") / "bundle"
    return convert(golden / "base", golden / TEACHER, golden / FORWARD, golden / REVERSE, out)


@pytest.fixture
def published(golden, tmp_path) -> dict[str, Path]:
    """Arguments of `convert` on a copy that a test may spoil; `out` is the only entry of its
    folder."""
    source = tmp_path / "source"
    source.mkdir()
    shutil.copytree(golden / "base", source / "base", copy_function=shutil.copyfile)
    for name in (FORWARD, REVERSE, TEACHER):
        shutil.copyfile(golden / name, source / name)
    (tmp_path / "made").mkdir()
    paths = {"base": "base", "teacher": TEACHER, "forward": FORWARD, "reverse": REVERSE}
    return {**{key: source / name for key, name in paths.items()}, "out": tmp_path / "made" / "out"}


def refused(published, message: str, **options) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        convert(**published, **options)
    assert "\n" not in str(caught.value)
    assert not list(published["out"].parent.iterdir())


def test_the_record_of_a_conversion(converted):
    bundle = read_bundle(converted.path, verify=True)
    assert bundle == converted
    assert bundle.encode_times == (19, 259, 519, 779) and bundle.decode_times == (
        259,
        519,
        779,
        999,
    )
    assert bundle.size == (512, 512) and bundle.guidance_embedded
    assert bundle.defaults == EditSettings(
        guidance_scale=19.0,
        tau=0.8,
        tau_low=0.0,
        control="auto",
        cross_replace=0.3,
        self_replace=0.6,
        seed=0,
    )
    assert bundle.origin["forward"]["file"] == FORWARD
    assert bundle.origin["lora_scale"] == {"unet": [2.0], "unet_forward": [2.0]}
    # These names carry no time steps: chain A is assumed, and said
    assert len(bundle.origin["notes"]) == 2


@pytest.mark.parametrize(("part", "name"), [("unet", REVERSE), ("unet_forward", FORWARD)])
def test_fused_weights_equal_float64(converted, golden, part, name):
    """W + (8 / 4) B A in float64, of A and B rounded to fp16; fp32 rounds a W of size 1, and a sum
    of 4, by 1e-7."""
    teacher = torch.load(golden / TEACHER, weights_only=True)
    lora = load_file(golden / name)
    fused = read_weights(converted.weights(part))
    assert fused.keys() == teacher.keys()
    for key, weight in teacher.items():
        expected = weight.double()
        a = lora.get(f"unet.base_model.model.{key.removesuffix('.weight')}.lora_A.weight")
        b = lora.get(f"unet.base_model.model.{key.removesuffix('.weight')}.lora_B.weight")
        if a is not None and b is not None:
            subscripts = "or,ri->oi" if weight.ndim == 2 else "orxy,rikl->oikl"
            expected = expected + 2.0 * torch.einsum(
                subscripts, b.half().double(), a.half().double()
            )
        torch.testing.assert_close(fused[key].double(), expected, rtol=1e-6, atol=1e-6, msg=key)


def test_stock_diffusers_loads_the_bundle(converted):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(converted.path, local_files_only=True)
    assert pipeline.unet.config.time_cond_proj_dim == 512
    assert torch.equal(
        pipeline.unet.conv_in.weight, read_weights(converted.weights("unet"))["conv_in.weight"]
    )


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_lower_precision_rounds_the_fused_weights(converted, published, precision, dtype):
    bundle = convert(**published, precision=precision)
    for part in ("unet", "unet_forward", "vae", "text_encoder"):
        full, low = read_weights(converted.weights(part)), read_weights(bundle.weights(part))
        assert all(torch.equal(low[key], full[key].to(dtype)) for key in full)
    assert bundle.origin["precision"] == precision


def test_a_missing_tokenizer_json_is_made(published, golden):
    from tokenizers import Tokenizer

    (published["base"] / "tokenizer" / "tokenizer.json").unlink()
    bundle = convert(**published)
    made = Tokenizer.from_file(str(bundle.path / "tokenizer" / "tokenizer.json"))
    known = Tokenizer.from_file(str(golden / "base" / "tokenizer" / "tokenizer.json"))
    for text in ("a photo of a Lego bird, standing!", "", "Ünïcode 😀"):
        assert made.encode(text).ids == known.encode(text).ids
        assert made.encode(text).offsets == known.encode(text).offsets


def test_old_names_of_vae_attention_are_renamed(published, golden):
    path = published["base"] / "vae" / UNET
    new = load_file(path)
    old = {}
    for key, value in new.items():
        for name, was in (
            ("to_q", "query"),
            ("to_k", "key"),
            ("to_v", "value"),
            ("to_out.0", "proj_attn"),
        ):
            key = key.replace(f"attentions.0.{name}.", f"attentions.0.{was}.")
        old[key] = value
    assert old.keys() != new.keys()
    save_file(old, path)
    assert read_weights(convert(**published).weights("vae")).keys() == new.keys()


def test_tau_is_the_one_each_chain_was_tuned_with(published):
    bundle = convert(**published, decode_times=[339, 699, 999])
    assert bundle.defaults.tau == 0.7 and bundle.encode_times == (19, 339, 699)


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
        "model_index.json", "scheduler/scheduler_config.json", "unet/config.json", f"unet/{UNET}", "vae/config.json",
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


def test_pickled_base_weights_are_refused(published):
    folder = published["base"] / "text_encoder"
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(
        published, r"text_encoder/pytorch_model\.bin is a pickle and only safetensors is loaded"
    )


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
            "v_prediction",
            "prediction_type 'v_prediction'",
        ),
        ("unet/config.json", "sample_size", "big", "sample_size"),
    ],
    ids=["sdxl", "other conditions", "inpainting", "v prediction", "sample size"],
)
def test_a_base_of_another_kind_is_refused(published, name, field, value, message):
    path = published["base"] / name
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    refused(published, message)


def test_a_base_without_a_unet_is_named_by_its_pipeline(published):
    path = published["base"] / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": "FluxPipeline"}))
    (published["base"] / "unet").rename(published["base"] / "transformer")
    refused(published, "'FluxPipeline' has no unet: only Stable Diffusion 1.5 and XL")


@pytest.mark.parametrize(
    "name", ["StableDiffusionImg2ImgPipeline", ["pipeline_own", "OwnPipeline"], None], ids=str
)
def test_a_base_saved_from_another_pipeline_converts(published, name):
    """The bundle names stock diffusers' own class."""
    path = published["base"] / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": name}))
    bundle = convert(**published)
    index = json.loads((bundle.path / "model_index.json").read_text())
    assert bundle.family == "sd15" and index["_class_name"] == "StableDiffusionPipeline"


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
