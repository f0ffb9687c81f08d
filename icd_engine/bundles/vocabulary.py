"""The tokenizer of a base: copied, and its tokenizer.json made of vocabulary and merges where it is
missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from icd_engine.bundles.files import require_file
from icd_engine.errors import BundleError

TOKENIZER_FILES = ("tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json")


def tokenizer_files(base: Path, part: str) -> Iterator[tuple[str, Any]]:
    """The files of a tokenizer in a model folder, by name; tokenizer.json is made where a base has
    none. Raises BundleError."""
    for name in TOKENIZER_FILES:
        if (base / part / name).is_file():
            yield f"{part}/{name}", base / part / name
    whole = base / part / "tokenizer.json"
    yield f"{part}/tokenizer.json", whole if whole.is_file() else _build_tokenizer(base, part)


def _build_tokenizer(base: Path, part: str) -> str:
    """tokenizer.json from vocab.json and merges.txt, by transformers."""
    from transformers import CLIPTokenizer

    try:
        for name in ("vocab.json", "merges.txt"):
            require_file(base, f"{part}/{name}")
        tokenizer = CLIPTokenizer.from_pretrained(base / part, local_files_only=True)
        return tokenizer.backend_tokenizer.to_str(pretty=True)
    except Exception as error:  # transformers raises many kinds for a damaged vocabulary
        reason = " ".join(str(error).split())
        raise BundleError(
            f"{base}: {part}/tokenizer.json is missing and cannot be made: {reason}"
        ) from error
