"""Single-file checkpoints of whole pipelines, in the original code's keys -> diffusers folders.

diffusers' own loader makes them, without a network: configurations and vocabulary lie in
`configurations/`, or are told. The vocabulary is that of OpenAI's CLIP (MIT licence).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from icd_engine.bundles.family import MODEL_INDEX
from icd_engine.bundles.files import read_header, read_shapes, write_file
from icd_engine.bundles.layouts import load_pickle
from icd_engine.errors import BundleError, shown

if TYPE_CHECKING:
    from torch import Tensor

PICKLED = (".ckpt", ".pt", ".pth")
SUFFIXES = (".safetensors", *PICKLED)
UNET = "model.diffusion_model."
VAE = "first_stage_model."
FIRST_WEIGHT = f"{UNET}input_blocks.0.0.weight"
# Text encoders, told by the beginning of their keys -> configuration
KINDS = {
    "conditioner.embedders.0.transformer.": "sdxl",
    "cond_stage_model.model.": "sd21",
    "cond_stage_model.transformer.": "sd15",
}
REFINER = "conditioner.embedders.0.model."
# Tensors that some trainers leave to say what a network predicts, and on which noise
SAYS_V = "v_pred"
SAYS_ZERO_SNR = "ztsnr"
SPEC = "modelspec.prediction_type"  # in the header: "v" or "epsilon"
SCHEDULER = "scheduler/scheduler_config.json"


class Unpacked(NamedTuple):
    """The folder that was made of a checkpoint, and what was assumed of it."""

    folder: Path
    notes: list[str]


def names() -> list[str]:
    """The configurations that are here."""
    return list(_configurations())


def unpack(path: Path, config: str | Path | None, scratch: Path) -> Unpacked:
    """Makes a diffusers folder in `scratch` of a checkpoint.

    config: one of `names`, or a diffusers folder whose configurations count; None: as the checkpoint's
    keys tell. Pickles are read by torch's weights-only reader. Raises BundleError naming the file.
    """
    if path.suffix in PICKLED:
        path = _as_safetensors(path, scratch)
    shapes = read_shapes(path)
    kind = _kind(path.name, shapes)
    notes = []
    if config is None or str(config) in names():
        name = kind if config is None else str(config)
        changed = said(path)
        folder = write_configuration(name, changed, scratch / "configuration")
        predicts = json.loads((folder / SCHEDULER).read_text())["prediction_type"]
        notes.append(f"base read from a single file as {name}, which predicts {predicts}")
        if kind == "sd21" and config is None and not changed:
            notes[-1] += "; if it predicts noise: --base-config sd21-base"
    else:
        folder = Path(config)
        if not (folder / MODEL_INDEX).is_file():
            raise BundleError(
                f"{config} is neither a diffusers folder nor one of {', '.join(names())}"
            )
        notes.append(f"base read from a single file with the configurations of {folder.name}")
    out = scratch / "base"
    _load(path, kind, folder).save_pretrained(out)
    return Unpacked(out, notes)


def _as_safetensors(path: Path, scratch: Path) -> Path:
    import torch

    state: Any = load_pickle(path)
    while isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping):
        raise BundleError(f"{path.name} must hold a state dict, not a {type(state).__name__}")
    tensors: dict[str, Tensor] = {
        key: value.detach().clone()  # tensors of a pickle may share memory
        for key, value in state.items()
        if isinstance(key, str) and isinstance(value, torch.Tensor)
    }
    name = f"{path.stem}.safetensors"
    write_file(scratch, name, tensors)
    return scratch / name


def _kind(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The configuration that keys tell. BundleError for what no configuration is here for."""
    if _has(shapes, REFINER):
        raise BundleError(f"{name} is SDXL's refiner, which makes no pictures alone: not supported")
    found = [kind for start, kind in KINDS.items() if _has(shapes, start)]
    if FIRST_WEIGHT not in shapes or not found:
        missing = "text encoder" if FIRST_WEIGHT in shapes else "UNet"
        raise BundleError(
            f"{name} is no checkpoint of Stable Diffusion 1, 2 or XL: it has no {missing} of theirs"
        )
    if not _has(shapes, VAE):
        raise BundleError(f"{name} has no VAE: its keys begin with {VAE!r}")
    channels = shapes[FIRST_WEIGHT][1]
    if channels != 4:
        raise BundleError(
            f"{name}: its UNet takes {channels} channels (inpainting, or pictures as conditions), and "
            "4 are supported"
        )
    return found[0]


def _has(keys: Iterable[str], start: str) -> bool:
    return any(key.startswith(start) for key in keys)


def said(path: Path) -> dict[str, Any]:
    """Fields of the scheduler that a checkpoint itself tells."""
    shapes = read_shapes(path)
    spec = read_header(path).get(SPEC)
    told: dict[str, Any] = {}
    if SAYS_V in shapes or spec == "v":
        told["prediction_type"] = "v_prediction"
    elif spec == "epsilon":
        told["prediction_type"] = "epsilon"
    if SAYS_ZERO_SNR in shapes:
        told["rescale_betas_zero_snr"] = True
    return told


def _data(name: str) -> bytes:
    return (resources.files("icd_engine.bundles") / "configurations" / name).read_bytes()


def _configurations() -> dict[str, dict[str, dict[str, Any]]]:
    return json.loads(_data("configurations.json"))


def write_configuration(name: str, scheduler: Mapping[str, Any], folder: Path) -> Path:
    """A diffusers folder without weights."""
    files = _configurations()[name]
    files[SCHEDULER] |= scheduler
    merges = gzip.decompress(_data("merges.txt.gz")).decode()
    for file, content in files.items():
        write_file(folder, file, content)
        if file.startswith("tokenizer"):
            part = file.partition("/")[0]
            write_file(folder, f"{part}/merges.txt", merges)
            write_file(folder, f"{part}/vocab.json", vocabulary(merges))
    return folder


def vocabulary(merges: str) -> dict[str, int]:
    """CLIP's vocabulary, which its merges tell: bytes, bytes that end a word, pairs, two marks."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
    pairs = ["".join(line.split()) for line in merges.split("\n")[1:] if line]
    ends = [f"{letter}</w>" for letter in letters]
    words = [*letters, *ends, *pairs, "<|startoftext|>", "<|endoftext|>"]
    return {word: i for i, word in enumerate(words)}


def _load(path: Path, kind: str, config: Path) -> Any:
    """The pipeline, by diffusers. BundleError where the checkpoint does not fit the configurations."""
    import diffusers

    xl = kind == "sdxl"
    pipeline = diffusers.StableDiffusionXLPipeline if xl else diffusers.StableDiffusionPipeline
    absent = {"feature_extractor": None, "image_encoder": None}
    try:
        loaded = pipeline.from_single_file(
            str(path),
            config=str(config),
            local_files_only=True,
            **(absent if xl else absent | {"safety_checker": None}),
        )
    except Exception as error:  # diffusers raises whatever its conversions stumble over
        reason = " ".join(str(error).split())[:300]
        raise BundleError(
            f"{path.name} does not fit the configuration {config.name}: {reason}"
        ) from None
    _check_whole(path, loaded)
    return loaded


def _check_whole(path: Path, loaded: Any) -> None:
    """Raises BundleError unless the UNet has all that the checkpoint has for it, and every network
    all its weights."""
    for part, network in loaded.components.items():
        for key, value in getattr(network, "state_dict", dict)().items():
            if value.is_meta:
                raise BundleError(f"{path.name}: {part} has no weight {shown(key)}")
    held = sum(key.startswith(UNET) for key in read_shapes(path))
    wanted = len(loaded.unet.state_dict())
    if held != wanted:
        raise BundleError(f"{path.name}: {held} weights for a UNet of {wanted}")
