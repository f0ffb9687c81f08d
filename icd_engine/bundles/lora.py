"""LoRA files of the published styles: paired, checked against the network and fused into its
weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from icd_engine.bundles.files import read_weights
from icd_engine.bundles.lora_scale import ALPHA, ASSUMED, LoraScales, read_scales
from icd_engine.errors import BundleError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Suffixes of the modules that the published files update.
LORA_MODULES = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
    "conv1",
    "conv2",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
    "time_emb_proj",
)
KEY = re.compile(
    r"(?P<root>(?:unet\.)?base_model\.model\.|unet\.|lora_unet_)(?P<module>.+?)\."
    r"(?P<role>lora_A\.weight|lora_B\.weight|lora\.down\.weight|lora\.up\.weight"
    r"|lora_down\.weight|lora_up\.weight|alpha)"
)
DOWN = ("lora_A.weight", "lora.down.weight", "lora_down.weight")


@dataclass(frozen=True)
class LoraPair:
    """One module's update, scale * up @ down, in fp32. down [r, in, (k, k)], up [out, r, (1,
    1)]. said_by: where the scale is from, see `lora_scale`."""

    down: Tensor
    up: Tensor
    scale: float
    said_by: str


# Module -> its updates, each with what it is multiplied by beside its own scale
Updates = dict[str, list[tuple[float, LoraPair]]]


def read_lora(
    path: Path, shapes: Mapping[str, tuple[int, ...]], rounds: bool
) -> dict[str, LoraPair]:
    """Module -> update, from a LoRA safetensors file for a network with these weight shapes.

    Key styles: `unet.base_model.model.<module>.lora_A.weight` (published), the same without `unet.`
    (peft's own saver), `unet.<module>.lora_A.weight` or `.lora.down.weight` (diffusers),
    `lora_unet_<module with underscores>.lora_down.weight` (kohya). Scale: see
    `lora_scale`. rounds: A and B to fp16, as the reference does for SD1.5. Raises BundleError
    naming the key: unknown style, no such module, no partner, wrong shape, not finite, or two
    scales.
    """
    tensors = read_weights(path)
    modules: dict[str, dict[str, str]] = {}
    by_flat_name = {
        key.removesuffix(".weight").replace(".", "_"): key.removesuffix(".weight") for key in shapes
    }
    for key in sorted(tensors):
        match = KEY.fullmatch(key)
        if match is None:
            raise BundleError(f"{path.name}: LoRA key style of {key!r} is not known")
        name = match["module"]
        module = by_flat_name.get(name, name) if match["root"] == "lora_unet_" else name
        if f"{module}.weight" not in shapes:
            raise BundleError(f"{path.name}: no module of the network belongs to {key!r}")
        role = "alpha" if match["role"] == "alpha" else "down" if match["role"] in DOWN else "up"
        other = modules.setdefault(module, {}).setdefault(role, key)
        if other != key:
            raise BundleError(f"{path.name}: {other!r} and {key!r} are the same weight twice")
    if not modules:
        raise BundleError(f"{path.name} holds no LoRA weights")
    if rounds:
        factors = {
            name for keys in modules.values() for role, name in keys.items() if role != "alpha"
        }
        tensors |= {key: _rounded(path, key, tensors[key]) for key in factors}
    scales = read_scales(path)
    return {
        module: lora_pair(path, tensors, module, keys, shapes[f"{module}.weight"], scales)
        for module, keys in modules.items()
    }


def lora_pair(
    path: Path,
    tensors: Mapping[str, Tensor],
    module: str,
    keys: Mapping[str, str],
    shape: tuple[int, ...],
    scales: LoraScales,
) -> LoraPair:
    """The update of one module; keys: "down", "up" and perhaps "alpha" -> key of `tensors`. shape:
    of the module's weight. Raises BundleError naming the key that does not fit."""
    if "down" not in keys or "up" not in keys:
        raise BundleError(
            f"{path.name}: {next(iter(keys.values()))!r} has no partner (LoRA weights come in pairs)"
        )
    down = tensors[keys["down"]]
    up = tensors[keys["up"]]
    rank = down.shape[0] if down.ndim else 0
    expected = {"down": (rank, *shape[1:]), "up": (shape[0], rank, *[1] * (len(shape) - 2))}
    for role, tensor in (("down", down), ("up", up)):
        if len(shape) < 2 or rank < 1 or tuple(tensor.shape) != expected[role]:
            raise BundleError(
                f"{path.name}: {keys[role]!r} has shape {list(tensor.shape)}, which does not fit a weight of "
                f"shape {list(shape)}" + (f" at rank {rank}" if role == "up" else "")
            )
    alpha = tensors[keys["alpha"]] if "alpha" in keys else None
    if alpha is not None and alpha.numel() != 1:
        raise BundleError(f"{path.name}: {keys['alpha']!r} must hold one number")
    scale = scales.of(module, rank, None if alpha is None else float(alpha))
    return LoraPair(down.float(), up.float(), scale.value, scale.said_by)


def assumed_scales(name: str, lora: Mapping[str, LoraPair]) -> list[str]:
    """A note on the updates of a file that nothing says the scale of."""
    assumed = sum(pair.said_by == ASSUMED for pair in lora.values())
    if not assumed:
        return []
    of = "" if assumed == len(lora) else f" for {assumed} of {len(lora)} modules"
    return [f"LoRA alpha assumed{of}: {ALPHA:g}, as of the published models ({name} has none)"]


def _rounded(path: Path, key: str, tensor: Tensor) -> Tensor:
    rounded = tensor.half()
    if not rounded.isfinite().all():
        raise BundleError(f"{path.name}: {key!r} is beyond the range of fp16")
    return rounded


def single_updates(lora: Mapping[str, LoraPair]) -> Updates:
    """The updates of one file, each as strong as it says."""
    return {module: [(1.0, pair)] for module, pair in lora.items()}


def joined(*updates: Updates) -> Updates:
    """All updates of several files together."""
    modules = dict.fromkeys(module for own in updates for module in own)
    return {module: [one for own in updates for one in own.get(module, [])] for module in modules}


def factors(updates: Sequence[tuple[float, LoraPair]]) -> tuple[Tensor, Tensor]:
    """down [R, in, (k, k)] and up [out, R, (1, 1)] of the updates of one module together, scales in
    `up`, R the sum of their ranks; float32."""
    import torch

    down = torch.cat([pair.down for _, pair in updates])
    up = torch.cat([strength * pair.scale * pair.up for strength, pair in updates], dim=1)
    return down, up


def difference(decode: Updates, encode: Updates, dtype: torch.dtype) -> dict[str, Tensor]:
    """What makes the encode network of the decode one: W_encode = W_decode + up @ down for every
    module of either, see `factors`."""
    found = {}
    for module in dict.fromkeys((*decode, *encode)):
        taken = [(-strength, pair) for strength, pair in decode.get(module, [])]
        down, up = factors([*encode.get(module, []), *taken])
        found[f"{module}.down"] = down.to(dtype)
        found[f"{module}.up"] = up.to(dtype)
    return found


def fused(weight: Tensor, updates: Sequence[tuple[float, LoraPair]]) -> Tensor:
    """W + the updates, float32."""
    weight = weight.float()
    for strength, pair in updates:
        # A convolution's B is 1x1, so that B after A is one matrix product over A's flattened
        # kernels.
        update = (pair.up.flatten(1) @ pair.down.flatten(1)).reshape(weight.shape)
        weight = weight + strength * pair.scale * update
    return weight


def fuse(weights: Mapping[str, Tensor], updates: Updates, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights with the updates of their modules, computed in fp32, all then in `dtype`.

    One weight after the other, so that beside the given weights only the result is in memory.
    """
    result = {}
    for key, weight in weights.items():
        own = updates.get(key.removesuffix(".weight")) if key.endswith(".weight") else None
        result[key] = (fused(weight, own) if own else weight).to(dtype)
    return result
