"""What a page needs of a model beside its graphs, as numbers, tables and texts: icd.json of a site."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icd_engine import __version__
from icd_engine.automatic import AGREES, BLENDS, CANDIDATES
from icd_engine.bundles.bundle import Bundle
from icd_engine.compositing import OTHER, SAME
from icd_engine.editing.words import PromptTokenizer
from icd_engine.errors import BundleError
from icd_engine.metadata import marked
from icd_engine.model import MOST_ASPECT, PLAIN_EDIT, PUBLISHED_SIZE, PUBLISHED_STEP
from icd_engine.provenance import SOURCE_TYPE
from icd_engine.sampling.schedule import Hop, NoiseSchedule
from icd_engine.settings import MAX_AMPLIFY, MAX_FEATHER, MAX_GUIDANCE

EDITED = SOURCE_TYPE.format("compositeWithTrainedAlgorithmicMedia")
# What the tables below say; other tokenizers would be read wrongly in silence.
WORDS = {"normalizer": ["NFC", "Lowercase"], "pre_tokenizer": ["Whitespace"]}
BYTES = {"normalizer": ["NFC", "Replace", "Lowercase"], "pre_tokenizer": ["Split", "ByteLevel"]}


def numbers(bundle: Bundle) -> dict[str, Any]:
    """Sizes, hops, guidance, defaults and limits. BundleError for models that pages cannot run."""
    if "text_encoder_2" in bundle.configs or bundle.samples_posterior:
        raise BundleError(f"{bundle.path}: the web layout is for models with one text encoder")
    vae = bundle.config("vae")
    unet = bundle.config("unet")
    downscale = 2 ** (len(vae["block_out_channels"]) - 1)
    step = downscale * 2 ** (len(unet["block_out_channels"]) - 1)
    published = min(bundle.size) >= PUBLISHED_SIZE
    schedule = NoiseSchedule.from_config(bundle.config("scheduler"))
    up = schedule.encode_hops(bundle.encode_times, bundle.encode_end)
    down = schedule.decode_hops(bundle.decode_times)
    judge = down[min(1, len(down) - 1)]
    passed = {0, *(hop.s for hop in up)}
    return {
        "engine": __version__,
        "fingerprint": bundle.fingerprint,
        "size": list(bundle.size),
        "size_step": max(step, PUBLISHED_STEP) if published else step,
        "most_aspect": MOST_ASPECT,
        "downscale": downscale,
        "latent_channels": vae["latent_channels"],
        "scaling_factor": vae["scaling_factor"],
        "guidance_width": unet["time_cond_proj_dim"],
        "guidance_width_forward": bundle.config("unet_forward")["time_cond_proj_dim"],
        "blend_downscale": bundle.blend_downscale,
        "steps": schedule.steps,
        "encode_hops": [_hop(hop) for hop in up],
        "decode_hops": [_hop(hop) for hop in down],
        "start": _shares(schedule, up[0].t),
        "anchors": all(hop.s in passed for hop in down),
        "judge": _hop(judge) | _shares(schedule, judge.t) | {"prediction": schedule.prediction},
        "defaults": bundle.defaults.resolve(PLAIN_EDIT).as_json(),
        "automatic": {"candidates": list(CANDIDATES), "blends": BLENDS, "agrees": AGREES},
        "limits": {"guidance": MAX_GUIDANCE, "amplify": MAX_AMPLIFY, "feather": MAX_FEATHER},
        "detail": {"same": SAME, "other": OTHER},
        "xmp": marked(None, EDITED).decode(),
    }


def _hop(hop: Hop) -> dict[str, float]:
    return {"t": hop.t, "s": hop.s, "A": hop.A, "B": hop.B}


def _shares(schedule: NoiseSchedule, t: int) -> dict[str, float]:
    """Of the picture and of the noise at time step t; nothing is added at 0."""
    return {"a": schedule.a(t), "sigma": schedule.sigma(t)} if t else {"a": 1.0, "sigma": 0.0}


def tokenizer_tables(folder: Path) -> dict[str, Any]:
    """tokenizer.json as the tables that a page reads. BundleError for kinds that it does not know."""
    own = PromptTokenizer.from_folder(folder)
    file = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model = file["model"]
    layout = WORDS if model["type"] == "WordLevel" else BYTES
    found = {part: _types(file.get(part)) for part in layout}
    if model["type"] not in ("WordLevel", "BPE") or found != layout or _unusual(model):
        raise BundleError(f"{folder}: pages do not know this kind of tokenizer: {found}")
    frame = own.encode("")
    tables = {
        "length": own.max_length,
        "begin": frame.ids[0],
        "end": own.end,
        "pad": own.pad,
        "unknown": model["vocab"].get(model.get("unk_token")),
        "special": {
            str(token["id"]): token["content"] for token in file["added_tokens"] if token["special"]
        },
        "vocabulary": model["vocab"],
        "casefold": casefolds(),
    }
    if model["type"] == "BPE":
        pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        split = file["pre_tokenizer"]["pretokenizers"][0]
        tables |= {
            "merges": pairs,
            "suffix": model.get("end_of_word_suffix") or "",
            "pattern": split["pattern"]["Regex"],
        }
    return tables


def known_words(folder: Path) -> str | None:
    """What a model with a vocabulary of whole words knows; None for one that spells words out."""
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    if model["type"] != "WordLevel":
        return None
    words = [word for word in model["vocab"] if word.isalnum()]
    return f"These {len(words)} words, and no others: {', '.join(words)}."


def _types(part: Mapping[str, Any] | None) -> list[str]:
    """The kinds of a normalizer or pre-tokenizer, in their order."""
    if part is None:
        return []
    inner = part.get("normalizers") or part.get("pretokenizers")
    return [part["type"]] if inner is None else [one["type"] for one in inner]


def _unusual(model: Mapping[str, Any]) -> bool:
    options = ("dropout", "continuing_subword_prefix", "fuse_unk", "byte_fallback", "ignore_merges")
    return any(model.get(name) for name in options)


def casefolds() -> dict[str, str]:
    """What Python's casefold makes of characters where lower case is something else."""
    every = map(chr, (*range(0xD800), *range(0xE000, 0x110000)))
    return {one: one.casefold() for one in every if one.casefold() != one.lower()}
