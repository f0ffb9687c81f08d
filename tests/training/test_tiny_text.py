"""The closed vocabulary covers every caption of the world, and the shipped files read back the
same."""

import numpy as np

from icd_engine.editing.words import PromptTokenizer
from training import tiny_text, world


def test_every_caption_is_known(tmp_path):
    tiny_text.write(tmp_path)
    tokenizer = PromptTokenizer.from_folder(tmp_path)
    unknown = tiny_text.vocabulary().index(tiny_text.UNKNOWN)
    rng = np.random.default_rng(0)
    for _ in range(50):
        caption = world.sample_scene(rng).caption
        tokens = tokenizer.encode(caption)
        assert unknown not in tokens.ids
        assert len(tokens.ids) == tiny_text.LENGTH and tokens.length == len(caption.split()) + 2
    assert tokenizer.encode("a Red CIRCLE").ids == tokenizer.encode("a red circle").ids
    assert unknown in tokenizer.encode("a red dog").ids


def test_words_are_unique():
    words = tiny_text.vocabulary()
    assert len(words) == len(set(words))
