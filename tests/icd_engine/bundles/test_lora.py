"""LoRA: every key style gives the same update, equal to peft's and to float64, and what does not
fit is named."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from icd_engine.bundles.layouts import read_state
from icd_engine.bundles.lora import fuse, read_lora, single_updates
from icd_engine.errors import BundleError

SHAPES = {
    "mid.attn_x.to_q.weight": (6, 5),
    "mid.attn_x.to_q.bias": (6,),
    "up_blocks.0.conv1.weight": (6, 5, 3, 3),
    "proj_in.weight": (6, 5, 1, 1),
}
RANK = 4


def pairs() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Module -> (A, B), values that are exact in fp16."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).half().float()

    return {
        "mid.attn_x.to_q": (draw(RANK, 5), draw(6, RANK)),
        "up_blocks.0.conv1": (draw(RANK, 5, 3, 3), draw(6, RANK, 1, 1)),
        "proj_in": (draw(RANK, 5, 1, 1), draw(6, RANK, 1, 1)),
    }


STYLES = {
    "published": (
        "unet.base_model.model.{}.lora_A.weight",
        "unet.base_model.model.{}.lora_B.weight",
    ),
    "peft's saver": ("base_model.model.{}.lora_A.weight", "base_model.model.{}.lora_B.weight"),
    "peft": ("unet.{}.lora_A.weight", "unet.{}.lora_B.weight"),
    "diffusers": ("unet.{}.lora.down.weight", "unet.{}.lora.up.weight"),
    "kohya": ("lora_unet_{}.lora_down.weight", "lora_unet_{}.lora_up.weight"),
}


def state(style: str = "published") -> dict[str, torch.Tensor]:
    tensors = {}
    for module, both in pairs().items():
        name = module.replace(".", "_") if style == "kohya" else module
        tensors |= {key.format(name): value for key, value in zip(STYLES[style], both, strict=True)}
    return tensors


def read(tmp_path, tensors):
    save_file(tensors, tmp_path / "lora.safetensors")
    return read_lora(tmp_path / "lora.safetensors", SHAPES, rounds=True)


@pytest.mark.parametrize("style", STYLES)
def test_every_key_style_gives_the_same_update(tmp_path, style):
    lora = read(tmp_path, state(style))
    assert set(lora) == set(pairs())
    for module, (down, up) in pairs().items():
        assert torch.equal(lora[module].down, down) and torch.equal(lora[module].up, up)
        assert lora[module].scale == 8 / RANK


def test_an_alpha_in_the_file_counts(tmp_path):
    tensors = {**state("kohya"), "lora_unet_proj_in.alpha": torch.tensor(2.0)}
    scales = {module: pair.scale for module, pair in read(tmp_path, tensors).items()}
    assert scales == {"mid.attn_x.to_q": 2.0, "up_blocks.0.conv1": 2.0, "proj_in": 0.5}


def test_weights_are_rounded_to_half_precision(tmp_path):
    tensors = {key: value + 1e-5 for key, value in state().items()}
    lora = read(tmp_path, tensors)
    assert torch.equal(lora["proj_in"].down, (pairs()["proj_in"][0] + 1e-5).half().float())
    exact = read_lora(tmp_path / "lora.safetensors", SHAPES, rounds=False)  # as for SDXL
    assert torch.equal(exact["proj_in"].down, pairs()["proj_in"][0] + 1e-5)


def test_fusing_applies_b_after_a(tmp_path):
    """The fused convolution does what the two convolutions in a row do."""
    weights = {key: torch.randn(shape) for key, shape in SHAPES.items()}
    kept = {key: value.clone() for key, value in weights.items()}
    fused = fuse(weights, single_updates(read(tmp_path, state())), torch.float32)
    x = torch.randn(1, 5, 7, 7)
    down, up = pairs()["up_blocks.0.conv1"]
    conv = torch.nn.functional.conv2d
    expected = conv(x, kept["up_blocks.0.conv1.weight"]) + 2.0 * conv(conv(x, down), up)
    # sums of 45 products of size about 10: float32 error well below 1e-4
    torch.testing.assert_close(
        conv(x, fused["up_blocks.0.conv1.weight"]), expected, rtol=0, atol=1e-4
    )
    assert all(torch.equal(weights[key], kept[key]) for key in kept)
    assert fused["mid.attn_x.to_q.bias"] is weights["mid.attn_x.to_q.bias"]


KEY = "unet.base_model.model.up_blocks.0.conv1.lora_{}.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({KEY.format("A"): None}, r"'unet\.base_model\.model\.up_blocks\.0\.conv1\.lora_B\.weight' has no partner"),
        ({KEY.format("B"): None}, r"conv1\.lora_A\.weight' has no partner"),
        ({"unet.base_model.model.nowhere.lora_A.weight": torch.ones(4, 5)}, r"belongs to '.*nowhere\.lora_A\.weight'"),
        ({"lora_unet_no_where.lora_down.weight": torch.ones(4, 5)}, "belongs to 'lora_unet_no_where"),
        ({"unet.base_model.model.mid.attn_x.to_q.bias": torch.ones(6)}, r"key style of '.*to_q\.bias' is not known"),
        ({"text_encoder.x.lora_A.weight": torch.ones(4, 5)}, r"key style of 'text_encoder\.x\.lora_A\.weight'"),
        ({KEY.format("A"): torch.ones(4, 6, 3, 3)}, r"conv1\.lora_A\.weight' has shape \[4, 6, 3, 3\]"),
        ({KEY.format("A"): torch.ones(4, 5)}, r"conv1\.lora_A\.weight' has shape \[4, 5\]"),
        ({KEY.format("A"): torch.ones(0, 5, 3, 3)}, r"conv1\.lora_A\.weight' has shape \[0, 5, 3, 3\]"),
        ({KEY.format("A"): torch.tensor(1.0)}, r"conv1\.lora_A\.weight' has shape \[\]"),
        ({KEY.format("B"): torch.ones(6, 3, 1, 1)}, r"conv1\.lora_B\.weight' has shape \[6, 3, 1, 1\].* at rank 4"),
        ({KEY.format("B"): torch.ones(6, 4, 3, 3)}, r"conv1\.lora_B\.weight' has shape \[6, 4, 3, 3\]"),
        ({KEY.format("B"): torch.full((6, 4, 1, 1), float("nan"))}, r"conv1\.lora_B\.weight' holds NaN"),
        ({KEY.format("B"): torch.full((6, 4, 1, 1), 1e5)}, r"conv1\.lora_B\.weight' is beyond the range of fp16"),
        ({"unet.up_blocks.0.conv1.lora_A.weight": torch.ones(4, 5, 3, 3)}, "are the same weight twice"),
        ({"unet.proj_in.alpha": torch.ones(2)}, r"'unet\.proj_in\.alpha' must hold one number"),
    ],
    ids=[
        "no A", "no B", "unknown module", "unknown flat module", "not lora", "other network", "A inputs", "A linear",
        "rank 0", "scalar", "ranks differ", "B kernel", "nan", "fp16 range", "twice", "alpha",
    ],
)  # fmt: skip
def test_what_does_not_fit_names_its_key(tmp_path, change, message):
    tensors = {key: value for key, value in {**state(), **change}.items() if value is not None}
    with pytest.raises(BundleError, match=message):
        read(tmp_path, tensors)


def test_a_file_without_weights_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"lora\.safetensors holds no LoRA weights"):
        read(tmp_path, {})


@pytest.mark.parametrize("role", ["forward", "reverse"])
def test_golden_weights_equal_peft(golden, role):
    """The whole UNet with the published-format file, against peft's own layers merged by peft."""
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig, get_peft_model

    teacher = read_state(golden / "sd15_cfg_distill.pt")
    path = golden / f"iCD-SD15-{role}.safetensors"
    shapes = {key: tuple(value.shape) for key, value in teacher.items()}
    fused = fuse(teacher, single_updates(read_lora(path, shapes, rounds=True)), torch.float32)

    config = UNet2DConditionModel.load_config(golden / "base" / "unet")
    unet = UNet2DConditionModel.from_config(config, time_cond_proj_dim=512)
    unet.load_state_dict(teacher)
    lora = load_file(path)
    modules = sorted(
        {key.removeprefix("unet.base_model.model.").split(".lora_")[0] for key in lora}
    )
    peft = get_peft_model(unet, LoraConfig(r=4, lora_alpha=8, target_modules=modules))
    rounded = {
        k.removeprefix("unet.").replace(".weight", ".default.weight"): v.half().float()
        for k, v in lora.items()
    }
    assert not peft.load_state_dict(rounded, strict=False).unexpected_keys
    expected = peft.merge_and_unload().state_dict()

    assert fused.keys() == expected.keys()
    changed = 0
    for key, value in fused.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-6, atol=1e-6, msg=key)
        changed += not torch.equal(value, teacher[key])
    assert changed == len(modules) == 277
