"""Metrics that look through trained networks, whose weights are given by path; nothing is ever
downloaded.

CLIP's agreement of picture and text (arXiv 2104.08718) and DINO's structure distance (Tumanyan et
al., arXiv 2201.00424) as PIE-Bench computes them, DINOv2's likeness as the code of iCD does, LPIPS
(arXiv 1801.03924).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
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
SIDE, LONGEST = 224, 480  # PIE-Bench's short side, and the most of the long one
BEFORE_CROP = 256  # short side that DINOv2's own processor cuts SIDE out of
FIGURES = {
    "clip": ("clip_whole", "clip_edited"),
    "dino": ("structure_distance",),
    "dinov2": ("edit_dino", "inversion_dino"),
    "lpips": ("background_lpips", "inversion_lpips"),
}
OF_PROMPTS = ("clip_whole",)  # what can be known where there is no picture to compare with


def learned(paths: Mapping[str, Path | None], device: torch.device) -> list[Metric]:
    """The metrics of FIGURES whose weights are given; the figures of the others are None.
    SettingsError.

    clip, dino, dinov2: model folders as transformers saves them. lpips: a file as Lpips reads it.
    """
    makers: dict[str, Callable[[Path, torch.device], Metric]] = {
        "clip": clip,
        "dino": dino,
        "dinov2": dinov2,
        "lpips": lpips,
    }
    given = [makers[name](path, device) for name, path in paths.items() if path is not None]
    return [partial(_unknown, absent(paths)), *given]


def absent(paths: Mapping[str, Path | None]) -> tuple[str, ...]:
    """The figures whose weights are not given."""
    return tuple(figure for name, path in paths.items() if path is None for figure in FIGURES[name])


def _unknown(figures: tuple[str, ...], item: Item, made: Edited) -> dict[str, float | None]:
    return {figure: None for figure in figures if item.read is not None or figure in OF_PROMPTS}


def clip(folder: Path, device: torch.device) -> Metric:
    """100 cos(picture, target prompt), at least 0, of the whole edit and of its edited region on
    black."""
    from transformers import AutoProcessor, CLIPModel

    with _loading(folder):
        model = _pretrained(CLIPModel, folder, device)
        processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)

    def score(picture: np.ndarray, text: str) -> float:
        inputs = processor(
            text=[text], images=[picture], return_tensors="pt", padding=True, truncation=True
        )
        with torch.no_grad():
            found = model(**inputs.to(device))
        return max(0.0, 100 * float(F.cosine_similarity(found.image_embeds, found.text_embeds)))

    def metric(item: Item, made: Edited) -> dict[str, float | None]:
        whole = score(made.edited, item.target)
        if item.read is None:
            return {"clip_whole": whole}
        if item.mask is None:
            return {"clip_whole": whole, "clip_edited": None}
        region = masked(made.edited, ~mask_at(item.mask, made.edited.shape[1::-1]))
        return {"clip_whole": whole, "clip_edited": score(region, item.target)}

    return metric


def dino(folder: Path, device: torch.device) -> Metric:
    """Mean squared difference of the self-similarities of source and edit in DINO's last keys."""
    model = _vit(folder, device)

    def metric(item: Item, made: Edited) -> dict[str, float | None]:
        if item.read is None:
            return {}
        source = at_size(item.picture(), made.edited.shape[1::-1])
        one, other = (
            self_similarity(last_keys(model, unscaled(x).to(device))) for x in (source, made.edited)
        )
        return {"structure_distance": float((one - other).square().mean())}

    return metric


def dinov2(folder: Path, device: torch.device) -> Metric:
    """cos of DINOv2's class tokens: of the picture and its edit, and of the picture and its
    reconstruction."""
    model = _vit(folder, device)

    def seen(picture: np.ndarray) -> Tensor:
        with torch.no_grad():
            found = model(cropped(picture).to(device), interpolate_pos_encoding=True)
        # Normalised; not the pooler, which DINO's folders have no weights for
        return found.last_hidden_state[:, 0]

    def metric(item: Item, made: Edited) -> dict[str, float | None]:
        if item.read is None or made.reconstruction is None:
            return {}
        source = seen(at_size(item.picture(), made.edited.shape[1::-1]))
        likeness = (
            float(F.cosine_similarity(source, seen(x))) for x in (made.edited, made.reconstruction)
        )
        return dict(zip(FIGURES["dinov2"], likeness, strict=True))

    return metric


def lpips(weights: Path, device: torch.device) -> Metric:
    """LPIPS of source and edit with the edited region in black, and of picture and
    reconstruction."""
    with _loading(weights):
        distance = Lpips(weights).to(device)

    def of(one: np.ndarray, other: np.ndarray) -> float:
        return distance(*(_planes(x).to(device) / 127.5 - 1 for x in (one, other)))

    def metric(item: Item, made: Edited) -> dict[str, float | None]:
        if item.read is None or made.reconstruction is None:
            return {}
        size = made.edited.shape[1::-1]
        picture = at_size(item.picture(), size)
        found: dict[str, float | None] = {
            "background_lpips": None,
            "inversion_lpips": of(picture, made.reconstruction),
        }
        mask = None if item.mask is None else mask_at(item.mask, size)
        if mask is not None and not mask.all():
            found["background_lpips"] = of(masked(picture, mask), masked(made.edited, mask))
        return found

    return metric


def unscaled(picture: np.ndarray) -> Tensor:
    """PIE-Bench's input of structure distance [1, 3, h, w]: ImageNet's normalisation, but of values
    in 0..255.

    They should be in [0, 1]: a slip of the published code that its figures depend on, kept so that
    ours compare.
    """
    short, long = sorted(picture.shape[:2])
    size = [SIDE * side // short for side in picture.shape[:2]]
    if SIDE * long > LONGEST * short:
        size = [LONGEST * side // long for side in picture.shape[:2]]
    return _normalised(F.interpolate(_planes(picture), size, mode="bilinear", antialias=True))


def cropped(picture: np.ndarray) -> Tensor:
    """DINOv2's input [1, 3, 224, 224]: the middle of the picture at a short side of 256."""
    short = min(picture.shape[:2])
    size = [BEFORE_CROP * side // short for side in picture.shape[:2]]
    top, left = ((side - SIDE) // 2 for side in size)
    planes = F.interpolate(_planes(picture), size, mode="bicubic", antialias=True).clamp(0, 255)
    return _normalised(planes[..., top : top + SIDE, left : left + SIDE] / 255)


def _planes(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()


def _normalised(planes: Tensor) -> Tensor:
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    return (planes - mean) / deviation


def last_keys(model: Any, pixels: Tensor) -> Tensor:
    """Keys of the last attention layer [tokens, channels], class token included."""
    (*_, layer) = (
        module for name, module in model.named_modules() if name.endswith((".key", ".k_proj"))
    )
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


def _vit(folder: Path, device: torch.device) -> Any:
    from transformers import AutoModel

    with _loading(folder):
        model = _pretrained(AutoModel, folder, device)
        if model.main_input_name != "pixel_values":
            raise ValueError(f"{type(model).__name__} is no vision transformer")
        # Convolutional networks end here
        last_keys(model, torch.zeros(1, 3, SIDE, SIDE, device=device))
        return model


def _pretrained(kind: Any, folder: Path, device: torch.device) -> Any:
    """ValueError where transformers would make up weights that the folder lacks, and only warn."""
    model, found = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    # Never asked
    lacking = sorted(key for key in found["missing_keys"] if not key.startswith("pooler."))
    if lacking:
        raise ValueError(
            f"it lacks {lacking[0]} and {len(lacking) - 1} more of {type(model).__name__}"
        )
    return model.eval().to(device)


@contextmanager
def _loading(path: Path) -> Iterator[None]:
    """One line for weights that are not there or not what they should be, and none where all is
    well."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        if not path.exists():
            raise FileNotFoundError(os.strerror(2))
        yield
    except UnpicklingError:
        raise SettingsError(
            f"{path} holds no weights for this metric: it is not a file of tensors alone"
        ) from None
    except ImportError as error:
        raise SettingsError(
            f"the metric of {path} needs a package that is not here: {error}"
        ) from None
    # From pickle, safetensors, transformers or torch: anything may be wrong with a file
    except Exception as error:
        raise SettingsError(
            f"{path} holds no weights for this metric: {' '.join(str(error).split())[:200]}"
        ) from None
