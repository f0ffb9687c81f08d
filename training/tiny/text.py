"""The embedded model's words: a closed vocabulary, its tokenizer and the shape of its text
encoder."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from training.world.scenes import WORDS

BEGIN = "<|startoftext|>"
END = "<|endoftext|>"
UNKNOWN = "<|unknown|>"
LENGTH = 77


def vocabulary() -> list[str]:
    """Special tokens, the words between, and every attribute of the world."""
    attributes = [word for words in WORDS.values() for word in words]
    return [BEGIN, END, UNKNOWN, "a", "an", "on", "background", *dict.fromkeys(attributes)]


def tokenizer() -> Tokenizer:
    """Word-level, lower-casing, with begin and end tokens; padding is the end token, as CLIP has
    it."""
    ids = {word: i for i, word in enumerate(vocabulary())}
    result = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    result.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    result.pre_tokenizer = pre_tokenizers.Whitespace()
    result.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}", special_tokens=[(BEGIN, ids[BEGIN]), (END, ids[END])]
    )
    result.add_special_tokens([BEGIN, END, UNKNOWN])
    return result


def config() -> dict:
    """text_encoder/config.json: CLIP's shape, two layers of 64."""
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": len(vocabulary()),
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "max_position_embeddings": LENGTH,
        "projection_dim": 64,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }


def write(folder: Path) -> None:
    """tokenizer.json, vocab.json and tokenizer_config.json in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    made = tokenizer()
    made.save(str(folder / "tokenizer.json"))
    (folder / "vocab.json").write_text(
        json.dumps({word: i for i, word in enumerate(vocabulary())}, indent=1)
    )
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": END,
        "unk_token": UNKNOWN,
        "model_max_length": LENGTH,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
