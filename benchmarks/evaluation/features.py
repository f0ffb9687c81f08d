"""Metrics that look through trained networks, whose weights are given by path; nothing is ever downloaded.

CLIP's agreement of picture and text (arXiv 2104.08718), DINO's structure distance (Tumanyan et al., arXiv 2201.00424),
DINOv2's features and LPIPS (arXiv 1801.03924), the first two computed as PIE-Bench does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.evaluation.diffusion import at_size
from benchmarks.evaluation.lpips import Lpips
from benchmarks.evaluation.metrics import masked
from benchmarks.evaluation.suites import Edited, Item, Metric, mask_at
from icd_engine.errors import SettingsError

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for values in [0, 1]
SIDE = 224
FIGURES = {
    "clip": ("clip_whole", "clip_edited"),
    "dino": ("structure_distance",),
    "dinov2": ("inversion_dino",),
    "lpips": ("inversion_lpips", "background_lpips"),
}


def learned(paths: dict[str, Path | None]) -> list[Metric]:
    """The metrics of FIGURES whose weights are given; the figures of the others are None. SettingsError.

    clip, dino, dinov2: model folders as transformers saves them. lpips: torchvision's AlexNet weights, a file.
    """
    makers: dict[str, Callable[[Path], Metric]] = {"clip": clip, "dino": dino, "dinov2": dinov2, "lpips": lpips}
    missing = {figure: None for name, figures in FIGURES.items() if paths.get(name) is None for figure in figures}
    found: list[Metric] = [lambda item, made: dict(missing)] if missing else []
    return found + [makers[name](path) for name, path in paths.items() if path is not None]


def clip(folder: Path) -> Metric:
    """100 cos(picture, target prompt), at least 0, of the whole edit and of its edited region on black."""
    from transformers import AutoProcessor, CLIPModel

    with _loading(folder):
        model: Any = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
        processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)

    def score(picture: np.ndarray, text: str) -> float:
        inputs = processor(text=[text], images=[picture], return_tensors="pt", padding=True, truncation=True)
        with torch.no_grad():
            found = model(**inputs)
        return max(0.0, 100 * float(F.cosine_similarity(found.image_embeds, found.text_embeds)))

    def metric(item: Item, made: Edited) -> dict[str, float | None]:
        scores: dict[str, float | None] = {"clip_whole": score(made.edited, item.target), "clip_edited": None}
        if item.mask is not None:
            region = masked(made.edited, ~mask_at(item.mask, made.edited.shape[1::-1]))
            scores["clip_edited"] = score(region, item.target)
        return scores

    return metric


def dino(folder: Path) -> Metric:
    """Mean squared difference of the self-similarities of source and edit in DINO's last keys."""
    model = _vit(folder)

    def metric(item: Item, made: Edited) -> dict[str, float | None]:
        if item.read is None:
            return {"structure_distance": None}
        source = at_size(item.picture(), made.edited.shape[1::-1])
        one, other = (self_similarity(last_keys(model, unscaled(x))) for x in (source, made.edited))
        return {"structure_distance": float((one - other).square().mean())}

    return metric


def dinov2(folder: Path) -> Metric:
    """cos of DINOv2's features of the picture and of its reconstruction."""
    model = _vit(folder)

    def metric(item: Item, made: Edited) -> dict[str, float | None]:
        if item.read is None or made.reconstruction is None:
            return {"inversion_dino": None}
        pair = at_size(item.picture(), made.reconstruction.shape[1::-1]), made.reconstruction
        with torch.no_grad():
            one, other = (model(scaled(x), interpolate_pos_encoding=True).pooler_output for x in pair)
        return {"inversion_dino": float(F.cosine_similarity(one, other))}

    return metric


def lpips(weights: Path) -> Metric:
    """AlexNet's LPIPS of picture and reconstruction, and of source and edit with the edited region in black."""
    with _loading(weights):
        distance = Lpips(weights)

    def of(one: np.ndarray, other: np.ndarray) -> float:
        return distance(*(_planes(x) / 127.5 - 1 for x in (one, other)))

    def metric(item: Item, made: Edited) -> dict[str, float | None]:
        found: dict[str, float | None] = dict.fromkeys(FIGURES["lpips"])
        if item.read is None:
            return found
        size = made.edited.shape[1::-1]
        picture = at_size(item.picture(), size)
        if made.reconstruction is not None:
            found["inversion_lpips"] = of(picture, made.reconstruction)
        if item.mask is not None:
            mask = mask_at(item.mask, size)
            found["background_lpips"] = of(masked(picture, mask), masked(made.edited, mask))
        return found

    return metric


def unscaled(picture: np.ndarray) -> Tensor:
    """PIE-Bench's input of structure distance: ImageNet's normalisation of values in 0..255, not in [0, 1].

    A slip of the published code that its figures depend on; kept, so that ours can be compared with them.
    """
    return _normalised(_planes(picture))


def scaled(picture: np.ndarray) -> Tensor:
    """[1, 3, h, w] as these networks were trained on, the short side 224."""
    return _normalised(_planes(picture) / 255)


def _planes(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()


def _normalised(planes: Tensor) -> Tensor:
    shrink = SIDE / min(planes.shape[-2:])
    size = [round(side * shrink) for side in planes.shape[-2:]]
    resized = F.interpolate(planes, size, mode="bilinear", antialias=True, align_corners=False)
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    return (resized - mean) / deviation


def last_keys(model: Any, pixels: Tensor) -> Tensor:
    """Keys of the last attention layer [tokens, channels], class token included."""
    (*_, layer) = (module for name, module in model.named_modules() if name.endswith((".key", ".k_proj")))
    kept: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    try:
        with torch.no_grad():
            model(pixels, interpolate_pos_encoding=True)
    finally:
        hook.remove()
    return kept[0][0]


def self_similarity(keys: Tensor) -> Tensor:
    """cos of every token's key with every other's [tokens, tokens]."""
    unit = F.normalize(keys, dim=-1)
    return unit @ unit.T


def _vit(folder: Path) -> Any:
    from transformers import AutoModel

    with _loading(folder):
        return AutoModel.from_pretrained(folder, local_files_only=True).eval()


@contextmanager
def _loading(path: Path) -> Iterator[None]:
    """One line for weights that are not there or not what they should be."""
    try:
        if not path.exists():
            raise FileNotFoundError(os.strerror(2))
        yield
    except Exception as error:  # of pickle, safetensors, transformers or torchvision: anything may be wrong with a file
        raise SettingsError(f"{path} holds no weights for this metric: {' '.join(str(error).split())[:200]}") from None
