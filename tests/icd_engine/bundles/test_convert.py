"""Published files -> a bundle: right weights in stock folders."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.convert import convert
from icd_engine.bundles.files import read_weights
from icd_engine.settings import EditSettings
from tests.icd_engine.bundles.golden_files import FORWARD, REVERSE, TEACHER, UNET


@pytest.fixture(scope="module")
def converted(golden, tmp_path_factory):
    out = tmp_path_factory.mktemp("convert") / "bundle"
    return convert(golden / "base", golden / TEACHER, golden / FORWARD, golden / REVERSE, out)


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
    assert bundle.origin["lora_scale_from"] == {"unet": ["assumed"], "unet_forward": ["assumed"]}
    # Neither names nor files say time steps and alpha: the published ones are assumed, and said
    notes = bundle.origin["notes"]
    assert [note.split(" assumed")[0] for note in notes] == [
        *("decode times", "encode times", "LoRA alpha", "LoRA alpha"),
    ]


def test_a_loras_own_alpha_is_taken_and_recorded(published):
    header = {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 32})}
    save_file(load_file(published["reverse"]), published["reverse"], metadata=header)
    origin = convert(**published).origin
    assert origin["lora_scale"] == {"unet": [8.0], "unet_forward": [2.0]}
    assert origin["lora_scale_from"]["unet"] == ["the header's lora_adapter_metadata"]
    assert [note for note in origin["notes"] if "LoRA" in note] == [
        f"LoRA alpha assumed: 8, as of the published models ({FORWARD} has none)"
    ]


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
