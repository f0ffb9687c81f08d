"""The closed vocabulary covers every caption of the world, and the shipped files read back the
same."""

import numpy as np

from icd_engine.editing.words import PromptTokenizer
from training.tiny import text
from training.world.scenes import sample_scene


def test_every_caption_is_known(tmp_path):
    text.write(tmp_path)
    tokenizer = PromptTokenizer.from_folder(tmp_path)
    unknown = text.vocabulary().index(text.UNKNOWN)
    rng = np.random.default_rng(0)
    for _ in range(50):
        caption = sample_scene(rng).caption
        tokens = tokenizer.encode(caption)
        assert unknown not in tokens.ids
        assert len(tokens.ids) == text.LENGTH and tokens.length == len(caption.split()) + 2
    assert tokenizer.encode("a Red CIRCLE").ids == tokenizer.encode("a red circle").ids
    assert unknown in tokenizer.encode("a red dog").ids


def test_words_are_unique():
    words = text.vocabulary()
    assert len(words) == len(set(words))
