"""Diffusers folders -> single files with the keys of the original code, as the usual sites have
them."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

WEIGHTS = "diffusion_pytorch_model.safetensors"
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "conv_in.": "input_blocks.0.0.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
}
VAE = {
    "mid_block.resnets.0.": "mid.block_1.",
    "mid_block.resnets.1.": "mid.block_2.",
    "mid_block.attentions.0.": "mid.attn_1.",
    "conv_norm_out.": "norm_out.",
    "conv_shortcut.": "nin_shortcut.",
    "group_norm.": "norm.",
    "to_out.0.": "proj_out.",
    **{f"to_{name}.": f"{name}." for name in "qkv"},
}
OPEN_CLIP = {
    "embeddings.token_embedding.": "token_embedding.",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.": "ln_final.",
    "encoder.layers.": "transformer.resblocks.",
    "layer_norm1.": "ln_1.",
    "layer_norm2.": "ln_2.",
    "self_attn.out_proj.": "attn.out_proj.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
}


def _renamed(key: str, names: dict[str, str]) -> str:
    for name, original in names.items():
        key = key.replace(name, original)
    return key


def unet_key(key: str) -> str:
    """Of UNets with two layers a level."""
    if match := re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", key):
        way, level, kind, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        if way == "down":
            place = {"downsamplers": 3 * level + 3}.get(kind, 3 * level + layer + 1)
            root = f"input_blocks.{place}"
        else:
            root = f"output_blocks.{3 * level + (2 if kind == 'upsamplers' else layer)}"
        if kind == "downsamplers":
            return f"{root}.0.{rest.replace('conv.', 'op.')}"
        if kind == "upsamplers":
            return f"{root}.UP.{rest}"
        key = f"{root}.{0 if kind == 'resnets' else 1}.{rest}"
    else:
        key = _renamed(key, UNET)
    if re.match(r"(input_blocks|output_blocks)\.\d+\.0\.|middle_block\.[02]\.", key):
        key = re.sub(r"\.(\w+)\.(weight|bias)$", _resnet_part, key)
    return key


def _resnet_part(match: re.Match[str]) -> str:
    return f".{RESNET.get(match[1], match[1])}.{match[2]}"


def _unet(folder: Path) -> dict[str, Tensor]:
    found = {unet_key(key): value for key, value in load_file(folder / WEIGHTS).items()}
    texts = {re.sub(r"\.1\..*", "", key) for key in found if ".1.transformer_blocks" in key}
    ups = {
        key: key.replace(".UP.", ".2." if key.split(".UP.")[0] in texts else ".1.") for key in found
    }
    return {f"model.diffusion_model.{ups[key]}": value for key, value in found.items()}


def vae_key(key: str) -> str:
    key = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample.", key)
    if match := re.search(r"up_blocks\.(\d)\.", key):
        level = 3 - int(match[1])
        key = key.replace(match[0], f"up.{level}.").replace(".resnets.", ".block.")
        key = key.replace("upsamplers.0.", "upsample.")
    return _renamed(key, VAE)


def _vae(folder: Path) -> dict[str, Tensor]:
    found = {}
    for key, value in load_file(folder / WEIGHTS).items():
        name = vae_key(key)
        if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name):
            value = value[:, :, None, None]
        found[f"first_stage_model.{name}"] = value
    return found


def _clip(folder: Path, root: str) -> dict[str, Tensor]:
    weights = load_file(folder / "model.safetensors")
    return {f"{root}text_model.{k.removeprefix('text_model.')}": v for k, v in weights.items()}


def _open_clip(folder: Path, root: str) -> dict[str, Tensor]:
    weights = load_file(folder / "model.safetensors")
    bare = {key.removeprefix("text_model."): value for key, value in weights.items()}
    found = {}
    for key, value in bare.items():
        if key == "text_projection.weight":
            found[f"{root}text_projection"] = value.T.contiguous()
        elif match := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(\w+)", key):
            parts = [bare[key.replace("q_proj", f"{name}_proj")] for name in "qkv"]
            name = f"transformer.resblocks.{match[1]}.attn.in_proj_{match[2]}"
            found[root + name] = torch.cat(parts)
        elif not re.search(r"self_attn\.[kv]_proj", key):
            found[root + _renamed(key, OPEN_CLIP)] = value
    return found


def single_file(base: Path, kind: str) -> dict[str, Tensor]:
    """All networks of a base as one state dict; kind: sd15, sd21 or sdxl."""
    state = _unet(base / "unet") | _vae(base / "vae")
    if kind == "sd15":
        return state | _clip(base / "text_encoder", "cond_stage_model.transformer.")
    if kind == "sd21":
        return state | _open_clip(base / "text_encoder", "cond_stage_model.model.")
    state |= _clip(base / "text_encoder", "conditioner.embedders.0.transformer.")
    return state | _open_clip(base / "text_encoder_2", "conditioner.embedders.1.model.")
