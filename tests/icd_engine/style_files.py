"""Style files as diffusers, peft and kohya's scripts write them, of random updates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

RANK = 3
ALPHA = 2.0
UNET_MODULES = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0",
    "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "down_blocks.0.attentions.0.proj_in",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_v",
    "mid_block.resnets.0.conv1",
    "up_blocks.0.upsamplers.0.conv",
    "up_blocks.1.resnets.0.time_emb_proj",
)
# All of a layer's attention: without `out_proj`, diffusers takes older names for newer ones
TEXT_MODULES = (
    *(f"encoder.layers.0.self_attn.{name}_proj" for name in ("q", "k", "v", "out")),
    "encoder.layers.0.mlp.fc1",
)
Factors = dict[str, dict[str, tuple[Tensor, Tensor]]]  # part -> module -> (down, up)


def random_factors(
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]], gain: float = 0.03, seed: int = 0
) -> Factors:
    """Updates of some modules of UNet and text encoders, from factors of this standard deviation."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * gain

    found: Factors = {}
    for part, own in shapes.items():
        modules = UNET_MODULES if part == "unet" else TEXT_MODULES
        for module in modules:
            shape = own[f"{module}.weight"]
            ones = [1] * (len(shape) - 2)
            pair = (draw(RANK, *shape[1:]), draw(shape[0], RANK, *ones))
            found.setdefault(part, {})[module] = pair
    return found


def write_kohya(path: Path, factors: Factors) -> Path:
    """`lora_unet_..._to_q.lora_down.weight` with an alpha tensor each."""
    many = "text_encoder_2" in factors
    roots = {"unet": "lora_unet_", "text_encoder": "lora_te1_" if many else "lora_te_"}
    roots["text_encoder_2"] = "lora_te2_"
    tensors = {}
    for part, own in factors.items():
        for module, (down, up) in own.items():
            name = module if part == "unet" else f"text_model.{module}"
            flat = roots[part] + name.replace(".", "_")
            tensors[f"{flat}.lora_down.weight"] = down
            tensors[f"{flat}.lora_up.weight"] = up
            tensors[f"{flat}.alpha"] = torch.tensor(ALPHA)
    save_file(tensors, path)
    return path


def write_diffusers(path: Path, factors: Factors) -> Path:
    """As `save_lora_weights` of a pipeline, with peft's configurations in the header."""
    from diffusers import StableDiffusionXLPipeline

    def layers(part: str) -> dict[str, Tensor]:
        root = "" if part == "unet" else "text_model."
        found = {}
        for module, (down, up) in factors.get(part, {}).items():
            found[f"{root}{module}.lora_A.weight"] = down
            found[f"{root}{module}.lora_B.weight"] = up
        return found

    given = {}
    for part, own in factors.items():
        about = {"r": RANK, "lora_alpha": ALPHA, "target_modules": list(own)}
        given[f"{part}_lora_layers"] = layers(part)
        given[f"{part}_lora_adapter_metadata"] = about
    StableDiffusionXLPipeline.save_lora_weights(path.parent, weight_name=path.name, **given)
    return path


def write_old_diffusers(path: Path, factors: Factors) -> Path:
    """`unet....attn1.processor.to_q_lora.down.weight`, of attention alone and without an alpha."""
    tensors = {}
    for module, (down, up) in factors["unet"].items():
        block, _, leaf = module.partition(".to_")
        if leaf:
            name = f"unet.{block}.processor.to_{leaf.removesuffix('.0')}_lora"
            tensors[f"{name}.down.weight"] = down
            tensors[f"{name}.up.weight"] = up
    save_file(tensors, path)
    return path


def write_peft(folder: Path, factors: Factors) -> Path:
    """A peft adapter of the UNet, its configuration beside it."""
    folder.mkdir()
    tensors = {}
    for module, (down, up) in factors["unet"].items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = down
        tensors[f"base_model.model.{module}.lora_B.weight"] = up
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": ["to_q"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
