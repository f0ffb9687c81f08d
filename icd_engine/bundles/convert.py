"""Published checkpoints -> a bundle: a diffusers base, the guidance-distilled teacher, and two LoRA
files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from icd_engine.bundles.baked import TABLE, Baked, StyleFile, baked
from icd_engine.bundles.base import check_noise, layout_notes, picture_size, read_base
from icd_engine.bundles.bundle import Bundle, write_bundle
from icd_engine.bundles.configs import train_steps
from icd_engine.bundles.family import DIFFERENCE, MODEL_INDEX, Family
from icd_engine.bundles.files import file_digest, read_json, read_shapes, read_weights
from icd_engine.bundles.layouts import WeightFiles, find_weights, read_found, single
from icd_engine.bundles.lora import (
    LoraPair,
    Updates,
    assumed_scales,
    difference,
    fuse,
    joined,
    read_lora,
    single_updates,
)
from icd_engine.bundles.sources import Sources, gathered
from icd_engine.bundles.target import check_target
from icd_engine.bundles.teacher import check_teacher, teacher_file
from icd_engine.bundles.times import CHAIN_A, choose_times
from icd_engine.bundles.vocabulary import tokenizer_files
from icd_engine.errors import BundleError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
# Names of the VAE's attention before diffusers 0.18, as in the published SD1.5 files.
OLD_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def convert(
    base: str | Path,
    teacher: str | Path,
    forward: str | Path,
    reverse: str | Path,
    out: str | Path,
    decode_times: Sequence[int] | None = None,
    encode_times: Sequence[int] | None = None,
    precision: str = "fp32",
    overwrite: bool = False,
    defaults: Mapping[str, Any] | None = None,
    styles: Sequence[StyleFile] = (),
    base_config: str | Path | None = None,
) -> Bundle:
    """Makes the bundle `out` of published files for SD1.5 or SDXL; every tensor must fit, or
    nothing is written.

    base: diffusers folder, its weights as `layouts.find_weights` finds them, or a single file with
    base_config (`single_file.unpack`). teacher: state dict
    (.pt with tensors only, or .safetensors) or UNet folder, with guidance embedding. forward,
    reverse: LoRA files (see `lora.read_lora`), fused in fp32 into the teacher's weights, or whole
    UNets of the teacher's architecture, as training without LoRA leaves them. Each may also be a
    repository of the hub, the last three tar archives as the authors publish them (see
    `sources.gathered`). Time steps are those of the arguments, else of the file names where they
    carry them, else each from the other file's, else chain A. precision: fp32, fp16 or bf16, of what
    is written. defaults: settings of an edit where they are not the reference's. styles: see
    `baked`. Raises BundleError naming the file and the key or field.
    """
    out = Path(out)
    if precision not in PRECISIONS:
        raise BundleError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    check_target(out, overwrite)
    with gathered(
        *(Path(p) for p in (base, teacher, forward, reverse)),
        beside=out.parent,
        base_config=base_config,
    ) as sources:
        return _convert(
            sources, out, decode_times, encode_times, precision, overwrite, defaults or {}, styles
        )


def _convert(
    sources: Sources,
    out: Path,
    decode_times: Sequence[int] | None,
    encode_times: Sequence[int] | None,
    precision: str,
    overwrite: bool,
    defaults: Mapping[str, Any],
    styles: Sequence[StyleFile],
) -> Bundle:
    base = sources.base
    forward = sources.forward
    reverse = sources.reverse
    family, unet_config, shapes, scheduler = read_base(base)
    last = train_steps(scheduler) - 1
    encode, decode, notes = choose_times(forward, reverse, encode_times, decode_times, last)
    check_noise(base, scheduler, encode, decode)
    teacher = teacher_file(sources.teacher)
    weights = read_found(teacher, integers=False)
    unet_config["time_cond_proj_dim"] = check_teacher(teacher.name.name, weights, shapes)
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    loras, whole = {}, {}
    for part, path in (("unet", reverse), ("unet_forward", forward)):
        if is_whole(path, shapes):
            whole[part] = path
        else:
            loras[part] = read_lora(path, shapes, family.rounds_lora)
            notes += assumed_scales(path.name, loras[part])
    added = baked(styles, base, family, shapes, unet_config)
    record = {
        "family": family.name,
        "encode_times": encode,
        "encode_end": decode[-1],
        "decode_times": decode,
        "size": picture_size(base, unet_config),
        **attention_levels(unet_config),
        "defaults": default_settings(family, decode) | dict(defaults),
        "origin": {
            "base": sources.base_name,
            **{
                k: _source(p)
                for k, p in (
                    ("teacher", teacher),
                    ("forward", single(forward)),
                    ("reverse", single(reverse)),
                )
            },
            **_scales(loras),
            "precision": precision,
            "notes": [*sources.notes, *notes] + layout_notes(base, family) + added.notes,
            **({"styles": [one.record for one in added.styles]} if styles else {}),
        },
    }
    networks = Networks(unet_config, weights, loras, whole, added)
    return write_bundle(out, record, _files(base, family, networks, precision), overwrite)


def _scales(loras: Mapping[str, Mapping[str, LoraPair]]) -> dict[str, Any]:
    """What is recorded of the scales of LoRA files, by part."""
    return {
        "lora_scale": {
            part: sorted({pair.scale for pair in lora.values()}) for part, lora in loras.items()
        },
        "lora_scale_from": {
            part: sorted({pair.said_by for pair in lora.values()}) for part, lora in loras.items()
        },
    }


def attention_levels(unet_config: Mapping[str, Any]) -> dict[str, int]:
    """Local blend reads the quarter-resolution maps, sharing begins at half resolution: 16x16 and
    32x32 at 512.

    A UNet of two levels, made for small pictures, has no such maps: there the finest serve both.
    """
    deep = len(unet_config.get("block_out_channels", ())) > 2
    return {"blend_downscale": 4 if deep else 1, "share_downscale": 2 if deep else 1}


def is_whole(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a safetensors file holds a UNet of its own instead of LoRA updates of the
    teacher's."""
    return path.suffix == ".safetensors" and path.is_file() and read_shapes(path) == dict(shapes)


def default_settings(family: Family, decode_times: Sequence[int]) -> dict[str, Any]:
    """The reference's settings, tau as each chain was tuned; amplify and blend are left to the
    caller."""
    return {
        "guidance_scale": family.guidance_scale,
        "tau": 0.8 if tuple(decode_times) == CHAIN_A else 0.7,
        "tau_low": 0.0,
        "control": "auto",
        "cross_replace": 0.3,
        "self_replace": 0.6,
        "seed": 0,
    }


def _source(found: WeightFiles) -> dict[str, Any]:
    one = {"file": found.name.name, "sha256": file_digest(found.name)}
    shards = {path.name: file_digest(path) for path in found.files if path != found.name}
    return one | {"shards": shards} if shards else one


class Networks(NamedTuple):
    """What UNets are made of. loras: part -> updates of the teacher's weights, or whole: part ->
    file."""

    config: Mapping[str, Any]
    teacher: Mapping[str, Tensor]
    loras: Mapping[str, Mapping[str, LoraPair]]
    whole: Mapping[str, Path]
    added: Baked

    def updates(self, part: str) -> Updates:
        return joined(single_updates(self.loras[part]), self.added.updates(part))


def _files(
    base: Path, family: Family, networks: Networks, precision: str
) -> Iterator[tuple[str, Any]]:
    """Every file of the bundle but icd.json, one network in memory at a time beside the teacher."""
    import torch

    dtype: torch.dtype = getattr(torch, PRECISIONS[precision])
    yield MODEL_INDEX, _model_index(base, family)
    ids: dict[str, int] = {}
    for part in family.tokenizers:
        for name, content in tokenizer_files(base, part):
            if networks.added.tokens and name.endswith("/tokenizer.json"):
                text = content if isinstance(content, str) else content.read_text(encoding="utf-8")
                content = networks.added.tokenizer(text)
                ids = networks.added.ids(content)
            yield name, content
    name = f"scheduler/{family.configs['scheduler']}"
    yield name, base / name
    for part, name in family.weights.items():
        if part not in networks.loras and part not in networks.whole:
            yield from _copied(base, part, name, networks.added, ids, dtype)
    for part in networks.loras:
        yield f"{part}/config.json", networks.config
        yield (
            f"{part}/{family.weights[part]}",
            fuse(networks.teacher, networks.updates(part), dtype),
        )
    for part, path in networks.whole.items():
        yield f"{part}/config.json", networks.config
        weights = fuse(read_weights(path), networks.added.updates(part), dtype)
        yield f"{part}/{family.weights[part]}", weights
    if not networks.whole:
        decode = networks.updates("unet")
        yield DIFFERENCE, difference(decode, networks.updates("unet_forward"), dtype)


def _copied(
    base: Path, part: str, name: str, added: Baked, ids: Mapping[str, int], dtype: torch.dtype
) -> Iterator[tuple[str, Any]]:
    """VAE or text encoder of the base, with the styles on it."""
    found = find_weights(base / part, name)
    weights = read_found(found)
    config: Any = base / part / "config.json"
    if part == "vae":
        weights = {_new_vae_key(key): value for key, value in weights.items()}
    else:
        weights = added.text_weights(part, weights, ids)
        rows = next((len(own) for key, own in weights.items() if key.endswith(TABLE)), 0)
        if ids:
            config = read_json(base, f"{part}/config.json") | {"vocab_size": rows}
    yield f"{part}/config.json", config
    # Tensors of a pickle may share memory, which safetensors cannot express
    copy = found.files[0].suffix != ".safetensors"
    yield (
        f"{part}/{name}",
        {
            key: value.to(dtype if value.is_floating_point() else value.dtype, copy=copy)
            for key, value in weights.items()
        },
    )


def _new_vae_key(key: str) -> str:
    return re.sub(
        r"(attentions\.\d+\.)(query|key|value|proj_attn)(?=\.)",
        lambda m: m[1] + OLD_VAE_ATTENTION[m[2]],
        key,
    )


def _model_index(base: Path, family: Family) -> dict[str, Any]:
    """The base's, without the parts a bundle has not (safety checker) and for the family's own
    pipeline, so that stock diffusers loads the bundle."""
    index = read_json(base, MODEL_INDEX)
    missing = {
        key: [None, None]
        for key, value in index.items()
        if isinstance(value, list) and key not in family.configs
    }
    return {
        **index,
        **missing,
        "_class_name": family.pipeline,
        "requires_safety_checker": False,
    }
