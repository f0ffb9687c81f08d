"""Files of styles: every way of naming the same updates is read alike, and what fits nothing is
named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from icd_engine.bundles.files import read_json, read_shapes
from icd_engine.bundles.lora import fused
from icd_engine.bundles.styles import Style, bare_shapes, read_style, use_style
from icd_engine.errors import BundleError, SettingsError
from tests.icd_engine.style_files import (
    RANK,
    random_factors,
    write_diffusers,
    write_kohya,
    write_old_diffusers,
    write_peft,
)

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
FILES = {"unet": "diffusion_pytorch_model.safetensors"}


def shapes_of(family: str) -> dict:
    base = GOLDEN / family / "base"
    parts = ["unet", *sorted(folder.name for folder in base.glob("text_encoder*"))]
    files = {part: base / part / FILES.get(part, "model.safetensors") for part in parts}
    return bare_shapes({part: read_shapes(file) for part, file in files.items()})


SHAPES = {family: shapes_of(family) for family in ("sd15", "sdxl")}
CONFIGS = {family: read_json(GOLDEN / family / "base", "unet/config.json") for family in SHAPES}


def read(path: Path, family: str = "sd15", token: str | None = None) -> Style:
    return read_style(path, SHAPES[family], CONFIGS[family], token)


def updates(style: Style, part: str) -> dict[str, torch.Tensor]:
    """Module -> what is added to its weight."""
    return {
        module: fused(torch.zeros(pair.up.shape[0], *pair.down.shape[1:]), [(1.0, pair)])
        for module, pair in style.of(part).items()
    }


@pytest.mark.parametrize("write", [write_kohya, write_diffusers])
def test_all_parts_are_read(tmp_path, write):
    factors = random_factors(SHAPES["sd15"])
    style = read(write(tmp_path / "style.safetensors", factors))
    assert style.updates.keys() == {"unet", "text_encoder"}
    for part, own in factors.items():
        found = updates(style, part)
        assert found.keys() == own.keys()
        for module, (down, up) in own.items():
            expected = (up.flatten(1) @ down.flatten(1)) * 2 / RANK
            torch.testing.assert_close(found[module].flatten(1), expected)


def test_without_an_alpha_the_scale_is_1(tmp_path):
    factors = random_factors(SHAPES["sd15"])
    style = read(write_old_diffusers(tmp_path / "style.safetensors", factors))
    assert style.of("unet").keys() == {m for m in factors["unet"] if ".to_" in m}
    assert {pair.scale for pair in style.of("unet").values()} == {1.0}


def test_a_peft_folder_is_read_with_its_configuration(tmp_path):
    factors = random_factors(SHAPES["sd15"])
    style = read(write_peft(tmp_path / "adapter", factors))
    assert style.of("unet").keys() == factors["unet"].keys()
    assert {round(pair.scale, 6) for pair in style.of("unet").values()} == {round(2 / RANK, 6)}


def test_block_numbers_of_the_original_code_are_understood(tmp_path):
    """SDXL's LoRAs name blocks as the original code numbers them."""
    module = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    shape = SHAPES["sdxl"]["unet"][f"{module}.weight"]
    flat = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    tensors = {f"{flat}.lora_down.weight": torch.randn(RANK, shape[1])}
    tensors |= {f"{flat}.lora_up.weight": torch.randn(shape[0], RANK)}
    save_file(tensors, tmp_path / "style.safetensors")
    assert list(read(tmp_path / "style.safetensors", "sdxl").of("unet")) == [module]


def test_both_text_encoders_of_sdxl_are_read(tmp_path):
    shapes = {part: own for part, own in SHAPES["sdxl"].items() if part != "unet"}
    style = read(write_kohya(tmp_path / "s.safetensors", random_factors(shapes)), "sdxl")
    assert style.updates.keys() == {"text_encoder", "text_encoder_2"}


@pytest.mark.parametrize(
    ("renamed", "said"),
    [
        ({"lora_unet_mid": "lora_unet_far"}, "no module of the networks belongs to 'lora_unet_far"),
        ({"lora_te_": "lora_te2_"}, "no module of the networks belongs to 'lora_te2_"),
        ({"lora_down": "hada_w1_a"}, "is of LoHa, and only LoRA is supported"),
        ({".alpha": ".dora_scale"}, "is of DoRA, and only LoRA is supported"),
        ({"to_q.lora_up.weight": "to_q.lora_over.weight"}, "lora_up.weight"),
        ({"to_q.alpha": "to_r.alpha"}, "belongs to 'lora_unet_.*to_r.alpha'"),
    ],
)
def test_keys_that_fit_nothing_are_named(tmp_path, renamed, said):
    path = write_kohya(tmp_path / "style.safetensors", random_factors(SHAPES["sd15"]))
    tensors = load_file(path)
    for old, new in renamed.items():
        tensors = {key.replace(old, new): value for key, value in tensors.items()}
    save_file(tensors, path)
    with pytest.raises(BundleError, match=rf"style.safetensors: .*{said}"):
        read(path)


def test_wrong_shapes_are_named(tmp_path):
    path = write_kohya(tmp_path / "style.safetensors", random_factors(SHAPES["sd15"]))
    tensors = load_file(path)
    key = next(key for key in tensors if key.endswith("attn1_to_q.lora_up.weight"))
    tensors[key] = tensors[key][:-1].contiguous()
    save_file(tensors, path)
    with pytest.raises(BundleError, match=r"attn1_to_q\.lora_up\.weight' has shape"):
        read(path)


WIDTH = SHAPES["sd15"]["text_encoder"]["embeddings.token_embedding.weight"][1]
VECTORS = torch.arange(2.0 * WIDTH).reshape(2, WIDTH)


@pytest.mark.parametrize(
    ("file", "content", "token", "name"),
    [
        ("a.safetensors", {"<cat>": VECTORS}, None, "<cat>"),
        ("a.safetensors", {"<cat>": VECTORS}, "<dog>", "<dog>"),
        ("my-cat.safetensors", {"emb_params": VECTORS}, None, "my-cat"),
        ("a.bin", {"<cat>": VECTORS}, None, "<cat>"),
        ("a.pt", {"string_to_param": {"*": VECTORS}, "name": "cat5", "step": 3}, None, "cat5"),
    ],
)
def test_vectors_are_read(tmp_path, file, content, token, name):
    path = tmp_path / file
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    style = read(path, token=token)
    assert style.tokens == (name, f"{name}_1")
    assert torch.equal(style.vectors["text_encoder"], VECTORS)


def test_vectors_of_sdxl_are_for_both_encoders(tmp_path):
    widths = {
        part: own["embeddings.token_embedding.weight"][1]
        for part, own in SHAPES["sdxl"].items()
        if part != "unet"
    }
    both = {
        "clip_l": torch.randn(1, widths["text_encoder"]),
        "clip_g": torch.randn(1, widths["text_encoder_2"]),
    }
    save_file(both, tmp_path / "cat.safetensors")
    style = read(tmp_path / "cat.safetensors", "sdxl")
    assert style.tokens == ("cat",)
    assert torch.equal(style.vectors["text_encoder_2"], both["clip_g"])
    with pytest.raises(BundleError, match="has vectors for text_encoder, text_encoder_2, and"):
        read(tmp_path / "cat.safetensors", "sd15")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"<cat>": VECTORS[:, 1:].contiguous()}, f"vectors of {WIDTH - 1} numbers"),
        ({"<cat>": VECTORS * float("inf")}, "NaN or infinity"),
        ({"a cat": VECTORS}, "cannot be the name of a token"),
        ({"<cat>": torch.zeros(80, WIDTH)}, "1 to 75 vectors"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(tmp_path, content, said):
    save_file(content, tmp_path / "cat.safetensors")
    with pytest.raises(BundleError, match=rf"cat.safetensors.*{said}"):
        read(tmp_path / "cat.safetensors")


def test_what_is_no_style_is_refused(tmp_path):
    with pytest.raises(BundleError, match="no such style file"):
        read(tmp_path / "nothing.safetensors")
    with pytest.raises(BundleError, match="one safetensors file, found none"):
        read(tmp_path)
    save_file({"a": torch.zeros(2, 2, 2), "b": torch.zeros(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(BundleError, match="belongs to 'a', 'b'"):
        read(tmp_path / "odd.safetensors")
    style = Style("cat.safetensors", "", tokens=("<cat>",))
    with pytest.raises(SettingsError, match="have no scale"):
        use_style(style, 0.5)
