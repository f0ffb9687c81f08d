"""Bases of other structures than the golden files': Stable Diffusion 2.1's, and SDXL's with text
encoders of different widths."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
State = dict[str, Tensor]


def change(path: Path, **fields) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def as_v2(base: Path, files: dict[str, Path], out: Path) -> dict[str, Path]:
    """Makes SD 1.5's base one of 2.1's structure: linear projections, v-prediction. The teacher and
    the LoRA files that fit it are written to `out`."""
    change(
        base / "unet/config.json",
        use_linear_projection=True,
        upcast_attention=True,
        attention_head_dim=[2, 4, 4, 4],
    )
    change(base / "scheduler/scheduler_config.json", prediction_type="v_prediction")
    return _changed(base, files, out, _linear)


def _linear(weights: State) -> State:
    """1x1 convolutions around transformers as linear layers, their updates too."""
    return {
        key: value.flatten(1) if ".proj_" in key and value.ndim == 4 else value
        for key, value in weights.items()
    }


def with_a_narrow_encoder(base: Path, files: dict[str, Path], out: Path) -> dict[str, Path]:
    """SDXL's base with a first text encoder of half the width: by widths its two are told apart."""
    config = json.loads((base / "text_encoder/config.json").read_text())
    width = config["hidden_size"]
    half = width // 2
    change(base / "text_encoder/config.json", hidden_size=half)
    whole = json.loads((base / "unet/config.json").read_text())["cross_attention_dim"]
    change(base / "unet/config.json", cross_attention_dim=whole - half)
    weights = load_file(base / TEXT)
    for key, value in weights.items():
        for i, size in enumerate(value.shape):
            if size == width:
                value = value.narrow(i, 0, half)
        weights[key] = value.contiguous()
    save_file(weights, base / TEXT)

    def narrowed(weights: State) -> State:
        return {
            key: value[:, half:] if "attn2" in key and value.shape[-1] == whole else value
            for key, value in weights.items()
        }

    return _changed(base, files, out, narrowed)


def _changed(
    base: Path, files: dict[str, Path], out: Path, by: Callable[[State], State]
) -> dict[str, Path]:
    def write(weights: State, path: Path) -> None:
        save_file({key: value.contiguous() for key, value in by(weights).items()}, path)

    write(load_file(base / UNET), base / UNET)
    changed = {}
    for role, path in files.items():
        is_pickle = path.suffix == ".pt"
        weights = torch.load(path, weights_only=True) if is_pickle else load_file(path)
        changed[role] = out / f"{path.stem}.safetensors"
        write(weights, changed[role])
    return changed
