"""Published SDXL files -> a bundle: two text encoders, factors that are not rounded, and what does
not fit is named."""

import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.convert import convert
from icd_engine.bundles.files import read_weights
from icd_engine.errors import BundleError
from icd_engine.settings import EditSettings

TEACHER = "sdxl_cfg_distill.pt"
# As the authors name them.
NAMES = {
    "forward": "iCD-SDXL-forward_19_249_499_699.safetensors",
    "reverse": "iCD-SDXL-reverse_249_499_699_999.safetensors",
}
TEXT_2 = "base/text_encoder_2/model.safetensors"


@pytest.fixture
def published(golden, tmp_path) -> dict[str, Path]:
    """Arguments of `convert` on a copy that a test may spoil; `out` is the only entry of its
    folder."""
    source = tmp_path / "source"
    shutil.copytree(golden.parent / "sdxl" / "base", source / "base", copy_function=shutil.copyfile)
    shutil.copyfile(golden.parent / "sdxl" / TEACHER, source / TEACHER)
    for role, name in NAMES.items():
        shutil.copyfile(golden.parent / "sdxl" / f"iCD-SDXL-{role}.safetensors", source / name)
    (tmp_path / "made").mkdir()
    paths = {"base": "base", "teacher": TEACHER, **NAMES}
    return {**{key: source / name for key, name in paths.items()}, "out": tmp_path / "made" / "out"}


def test_the_bundle_of_a_conversion(published):
    bundle = convert(**published)
    assert bundle == read_bundle(published["out"], verify=True)
    assert (bundle.family, bundle.size, bundle.guidance_embedded) == ("sdxl", (128, 128), True)
    assert (bundle.encode_times, bundle.decode_times) == ((19, 249, 499, 699), (249, 499, 699, 999))
    assert bundle.defaults == EditSettings(
        guidance_scale=7.0,
        tau=0.7,
        tau_low=0.0,
        control="auto",
        cross_replace=0.3,
        self_replace=0.6,
        seed=0,
    )
    assert (bundle.share_downscale, bundle.blend_downscale) == (2, 4)
    assert bundle.difference is not None and bundle.origin["base"] == "base"
    for part in ("text_encoder", "text_encoder_2", "vae"):
        kept = load_file(published["base"] / part / bundle.weights(part).name)
        written = read_weights(bundle.weights(part))
        assert written.keys() == kept.keys() and all(
            torch.equal(written[key], kept[key]) for key in kept
        )


@pytest.mark.parametrize(("part", "role"), [("unet", "reverse"), ("unet_forward", "forward")])
def test_fused_weights_equal_float64_without_rounding(published, part, role):
    """W + (8 / 4) B A of the factors as they are; those rounded to fp16 would be off by a hundred
    times the bound."""
    teacher, lora = torch.load(published["teacher"], weights_only=True), load_file(published[role])
    fused = read_weights(convert(**published).weights(part))
    assert fused.keys() == teacher.keys()
    used = 0
    for key, weight in teacher.items():
        module, expected = f"unet.base_model.model.{key.removesuffix('.weight')}", weight.double()
        if key.endswith(".weight") and f"{module}.lora_A.weight" in lora:
            a, b = (lora[f"{module}.lora_{factor}.weight"].double().flatten(1) for factor in "AB")
            expected = expected + 2.0 * (b @ a).reshape(weight.shape)
            used += 2
        torch.testing.assert_close(fused[key].double(), expected, rtol=1e-6, atol=1e-6, msg=key)
    assert used == len(lora)


def test_stock_diffusers_loads_the_bundle(published):
    from diffusers import StableDiffusionXLPipeline

    bundle = convert(**published)
    pipeline = StableDiffusionXLPipeline.from_pretrained(bundle.path, local_files_only=True)
    projection = read_weights(bundle.weights("text_encoder_2"))["text_projection.weight"]
    assert torch.equal(pipeline.text_encoder_2.text_projection.weight, projection)


def test_the_authors_archives(published, tmp_path):
    plain = convert(**published)
    for name, members in {"lora.tar.gz": NAMES.values(), f"{TEACHER}.tar.gz": [TEACHER]}.items():
        with tarfile.open(tmp_path / name, "w:gz") as tar:
            for member in members:
                tar.add(published["teacher"].parent / member, arcname=member)
    both = dict.fromkeys(NAMES, tmp_path / "lora.tar.gz")
    packed = convert(
        **{
            **published,
            **both,
            "teacher": tmp_path / f"{TEACHER}.tar.gz",
            "out": tmp_path / "packed",
        }
    )
    assert (packed.sha256, packed.encode_times) == (plain.sha256, plain.encode_times)


def spoil(path: Path, part_of_key: str, change) -> str:
    """Replaces the first tensor with such a key; None removes it. Returns its key."""
    pickled = path.suffix == ".pt"
    tensors = dict(torch.load(path, weights_only=True) if pickled else load_file(path))
    key = next(key for key in sorted(tensors) if part_of_key in key)
    value = change(tensors.pop(key).clone())
    if value is not None:
        tensors[key] = value
    (torch.save if pickled else save_file)(tensors, path)
    return key


@pytest.mark.parametrize(
    ("file", "part_of_key", "change"),
    [
        (TEACHER, "add_embedding.linear_1", lambda t: None),
        (TEACHER, "add_embedding.linear_1", lambda t: t[:-1]),
        (TEACHER, "mid_block", lambda t: torch.full_like(t, torch.nan)),
        (NAMES["forward"], "lora_B", lambda t: None),
        (NAMES["reverse"], "lora_A", lambda t: t[:, :-1].contiguous()),
        (NAMES["reverse"], "lora_A", lambda t: torch.full_like(t, torch.nan)),
        (TEXT_2, "text_projection", lambda t: torch.full_like(t, torch.nan)),
    ],
    ids=[
        "teacher missing",
        "teacher shape",
        "teacher nan",
        "lora alone",
        "lora shape",
        "lora nan",
        "text nan",
    ],
)
def test_a_tensor_that_does_not_fit_is_named(published, file, part_of_key, change):
    path = published["base"].parent / file
    # Of a pair, the one that is left
    key = spoil(path, part_of_key, change).replace("lora_B", "lora_[AB]")
    with pytest.raises(BundleError, match=f"{path.name}.*'{key}'"):
        convert(**published)
    assert not list(published["out"].parent.iterdir())


def test_files_of_another_family_do_not_fit(published, golden):
    with pytest.raises(BundleError, match=r"sd15_cfg_distill\.pt: "):
        convert(**{**published, "teacher": golden / "sd15_cfg_distill.pt"})
    with pytest.raises(BundleError, match="no module of the network belongs to"):
        convert(**{**published, "reverse": golden / "iCD-SD15-reverse.safetensors"})
    assert not list(published["out"].parent.iterdir())


@pytest.mark.parametrize(
    "name", ["tokenizer_2/tokenizer_config.json", "text_encoder_2/model.safetensors"]
)
def test_a_missing_part_of_the_base_is_named(published, name):
    (published["base"] / name).unlink()
    with pytest.raises(BundleError, match=f"base: {name} is missing"):
        convert(**published)


def test_tokenizers_of_two_vocabularies_are_refused(published):
    path = published["base"] / "tokenizer_2" / "tokenizer.json"
    path.write_text(path.read_text().replace('"a</w>"', '"b2</w>"'))
    with pytest.raises(BundleError, match=r"tokenizer_2/tokenizer\.json has another vocabulary"):
        convert(**published)
    assert not list(published["out"].parent.iterdir())
