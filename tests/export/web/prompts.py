"""Prompts for both tokenizers of the tests: of the embedded world, of plain English, and of odd
characters."""

from __future__ import annotations

import json
import random
from pathlib import Path

from export.web_manifest import tokenizer_tables
from icd_engine.bundles.bundle import read_bundle
from icd_engine.editing.words import PromptTokenizer

FOLDERS = {
    "words": read_bundle("tiny").path / "tokenizer",
    "bytes": Path(__file__).parents[2] / "data" / "bpe_tokenizer",
}
TOKENIZERS = {name: PromptTokenizer.from_folder(folder) for name, folder in FOLDERS.items()}
TABLES = {name: tokenizer_tables(folder) for name, folder in FOLDERS.items()}
PLAIN = (
    "a an the on in of large small red green blue yellow purple circle square star heart plain "
    "striped dotted background cat dog sofa photo don't it's Cat's lion 3 1999"
)
WORDS = tuple(PLAIN.split())
ODD = (
    *("Straße", "İstanbul", "ΣΊΣΥΦΟΣ", "e\u0301te\u0301", "q\u0323\u0302", "\u1100\u1161\u11a8"),
    *("日本語", "🦁", "👩\u200d🚀", "<|endoftext|>", "<|startoftext|>", "<|unknown|>", "ﬁne", "Ⅷ"),
    *(
        "!?",
        "...cat,",
        "(red)",
        "a/b",
        "rock'n'roll",
        "'S",
        "_x_",
        "-",
        "½",
        "x²",
        "\u0301lone",
        "ǅ",
    ),
    *("İ", "ß", "a\u0334\u0301", "\ufeffbom", "soft\u00adhyphen", "Ω", "K", "!\u0303", "ﬀ", "ŉ"),
)
SPACES = (" ", " ", " ", "  ", "\t", "\n", "\u00a0", "\u2003", "\u3000", "\x85", "\x1c")


def prompt(draw: random.Random, odd: float, most: int = 12) -> str:
    """Up to `most` words, that share of them odd ones or of any characters."""
    text = draw.choice(("", "", " "))
    for _ in range(draw.randint(1, most)):
        word = draw.choice(WORDS)
        if draw.random() < odd:
            word = draw.choice(ODD) if draw.random() < 0.7 else any_characters(draw)
        text += word + (draw.choice(SPACES) if draw.random() < odd else " ")
    return text


def any_characters(draw: random.Random) -> str:
    ranges = ((0x20, 0x7F), (0xA0, 0x250), (0x300, 0x600), (0x1E00, 0x2200), (0x1F300, 0x1F700))
    return "".join(chr(draw.randrange(*draw.choice(ranges))) for _ in range(draw.randint(1, 6)))


def clip_sized(folder: Path, seed: int = 5) -> Path:
    """A tokenizer of CLIP's kind and size, 49,408 ids, with merges drawn at random among those of short
    parts; and CLIP's own pattern."""
    draw = random.Random(seed)
    file = json.loads((FOLDERS["bytes"] / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = file["model"]["vocab"]
    alphabet = [part for part, i in vocabulary.items() if i < 512]
    letters = [part for part in alphabet if part.removesuffix("</w>").isascii()]
    parts = list(dict.fromkeys(letters))
    known = dict.fromkeys(alphabet)
    merges = []
    while len(known) < 49_406:
        first = draw.choice(parts)
        second = draw.choice(letters if draw.random() < 0.8 else parts)
        if not first.endswith("</w>") and len(first + second) < 12 and first + second not in known:
            known[first + second] = None
            parts.append(first + second)
            merges.append([first, second])
    special = ("<|startoftext|>", "<|endoftext|>")
    file["model"]["vocab"] = {part: i for i, part in enumerate((*known, *special))}
    file["model"]["merges"] = merges
    for token, i in zip(file["added_tokens"], (49_406, 49_407), strict=True):
        token["id"] = i
    file["post_processor"] |= {"cls": [special[0], 49_406], "sep": [special[1], 49_407]}
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern
    (folder / "tokenizer.json").write_text(json.dumps(file), encoding="utf-8")
    config = (FOLDERS["bytes"] / "tokenizer_config.json").read_bytes()
    (folder / "tokenizer_config.json").write_bytes(config)
    return folder
