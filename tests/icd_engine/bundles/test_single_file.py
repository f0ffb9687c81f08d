"""Single-file checkpoints: the same model as from the folder they were made of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from icd_engine.bundles import single_file
from icd_engine.bundles.base import read_base
from icd_engine.bundles.configs import check_configs, check_known
from icd_engine.bundles.convert import convert
from icd_engine.bundles.family import FAMILIES
from icd_engine.editing.words import PromptTokenizer
from icd_engine.errors import BundleError
from icd_engine.networks.text_encoder import PooledTextEncoder, TextEncoder
from icd_engine.networks.unet import UNet
from icd_engine.networks.vae import VAE
from tests.icd_engine.bundles import original_keys
from tests.icd_engine.bundles.other_bases import as_v2, with_a_narrow_encoder

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
# Of the published models, by the sizes that their authors' code gives
PARAMETERS = {
    "sd15": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sd21": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "sd21-base": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "sdxl": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
}


@pytest.fixture(scope="module", params=["sd15", "sd21", "sdxl"])
def case(request, tmp_path_factory) -> dict:
    """A base, its single file, and what is converted with it."""
    kind = request.param
    family = "sdxl" if kind == "sdxl" else "sd15"
    tag = family.upper()
    source = GOLDEN / family
    folder = tmp_path_factory.mktemp(kind)
    base = folder / "base"
    shutil.copytree(source / "base", base, copy_function=shutil.copyfile)
    files = {role: source / f"iCD-{tag}-{role}.safetensors" for role in ("forward", "reverse")}
    files["teacher"] = source / f"{family}_cfg_distill.pt"
    if kind == "sd21":
        files = as_v2(base, files, folder)
    elif kind == "sdxl":
        files = with_a_narrow_encoder(base, files, folder)
    state = original_keys.single_file(base, kind)
    save_file(state, folder / "model.safetensors")
    torch.save({"state_dict": state, "global_step": 3}, folder / "model.ckpt")
    return {"base": base, "kind": kind, "folder": folder, "files": files}


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_it_is_the_model_of_its_folder(case, suffix, tmp_path):
    expected = convert(case["base"], out=tmp_path / "expected", **case["files"])
    file = case["folder"] / f"model{suffix}"
    made = convert(file, out=tmp_path / "made", base_config=case["base"], **case["files"])
    assert made.origin["base"] == file.name
    assert "single file" in made.origin["notes"][0]
    assert made.configs["scheduler"]["prediction_type"] == (
        "v_prediction" if case["kind"] == "sd21" else "epsilon"
    )
    for part in FAMILIES[made.family].weights:
        theirs, own = load_file(expected.weights(part)), load_file(made.weights(part))
        bare = {key.removeprefix("text_model."): value for key, value in own.items()}
        for key, value in theirs.items():
            assert torch.equal(bare[key.removeprefix("text_model.")], value), (part, key)
    assert not list(tmp_path.glob(".icd*"))


@pytest.mark.parametrize("name", single_file.names())
def test_configurations_are_those_of_the_published_models(name, tmp_path):
    folder = single_file.write_configuration(name, {}, tmp_path)
    counts = PARAMETERS[name]
    configs = {part: json.loads((folder / part / "config.json").read_text()) for part in counts}
    kinds = {"unet": UNet, "vae": VAE, "text_encoder_2": lambda c: PooledTextEncoder(c, end=1)}
    for part, count in counts.items():
        with torch.device("meta"):
            network = kinds.get(part, TextEncoder)(configs[part])
        assert sum(own.numel() for own in network.parameters()) == count, part
        if part in ("unet", "vae"):
            check_known(part, part, configs[part])
    family = FAMILIES["sdxl" if name == "sdxl" else "sd15"]
    files = {part: f"{part}/{file}" for part, file in family.configs.items()}
    files["unet_forward"] = files["unet"]
    read = {part: json.loads((folder / file).read_text()) for part, file in files.items()}
    check_configs(read, files)
    with pytest.raises(BundleError, match=r"model\.safetensors is missing|diffusion_pytorch_model"):
        read_base(folder)  # all but the weights is there


def test_the_vocabulary_is_clips(tmp_path):
    """The ids that the published tokenizer gives."""
    from transformers import CLIPTokenizer

    folder = single_file.write_configuration("sdxl", {}, tmp_path)
    text = "a photo of a cat"
    first = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    second = CLIPTokenizer.from_pretrained(folder / "tokenizer_2")
    ids = [49406, 320, 1125, 539, 320, 2368, 49407]
    assert first(text).input_ids == second(text).input_ids == ids
    assert (first.pad_token_id, second.pad_token_id) == (49407, 0)
    first.save_pretrained(tmp_path / "saved")
    assert PromptTokenizer.from_folder(tmp_path / "saved").encode(text).ids[:7] == tuple(ids)


FIRST = single_file.FIRST_WEIGHT
TEXT = "cond_stage_model.transformer.text_model.a"
PARTS = {
    FIRST: torch.zeros(8, 4, 3, 3),
    "first_stage_model.a": torch.zeros(1),
    TEXT: torch.zeros(1),
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({FIRST: torch.zeros(8, 9, 3, 3)}, "takes 9 channels"),
        ({FIRST: None}, "it has no UNet of theirs"),
        ({TEXT: None}, "it has no text encoder of theirs"),
        ({"first_stage_model.a": None}, "has no VAE"),
        ({"conditioner.embedders.0.model.a": torch.zeros(1)}, "SDXL's refiner"),
        ({}, "does not fit the configuration"),
    ],
    ids=["inpainting", "no unet", "no text encoder", "no vae", "refiner", "too little"],
)
def test_what_is_no_such_checkpoint_is_refused(published, tmp_path, change, said):
    held = {key: value for key, value in (PARTS | change).items() if value is not None}
    save_file(held, tmp_path / "model.safetensors")
    published |= {"base": tmp_path / "model.safetensors"}
    with pytest.raises(BundleError, match=f"model.safetensors.*{said}"):
        convert(**published)
    assert not published["out"].exists()


def test_what_is_told_twice_or_unknown_is_refused(published, tmp_path):
    with pytest.raises(BundleError, match="is a folder, which has configurations of its own"):
        convert(**published, base_config="sd15")
    save_file(PARTS, tmp_path / "model.safetensors")
    with pytest.raises(BundleError, match="neither a diffusers folder nor one of sd15, sd21"):
        convert(**published | {"base": tmp_path / "model.safetensors"}, base_config="sd16")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(BundleError, match="is GGUF"):
        convert(**published | {"base": tmp_path / "model.gguf"})


@pytest.mark.parametrize(
    ("tensors", "header", "told"),
    [
        ({}, {}, {}),
        ({}, {"modelspec.prediction_type": "v"}, {"prediction_type": "v_prediction"}),
        (
            {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)},
            {},
            {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        ),
    ],
)
def test_what_a_file_says_of_its_noise_counts(tmp_path, tensors, header, told):
    save_file(PARTS | tensors, tmp_path / "model.safetensors", metadata=header)
    assert single_file.said(tmp_path / "model.safetensors") == told
