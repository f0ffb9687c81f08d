"""The page's byte-pair tokenizer at the size of CLIP's vocabulary."""

import random
import warnings

from export.web_manifest import tokenizer_tables
from icd_engine.editing.words import PromptTokenizer
from tests.export.web.node import needs_node, values
from tests.export.web.prompts import clip_sized, prompt

pytestmark = needs_node


def test_tokens_of_a_vocabulary_of_clips_size(tmp_path):
    folder = clip_sized(tmp_path)
    tokenizer = PromptTokenizer.from_folder(folder)
    assert tokenizer.vocabulary == 49_408
    draw = random.Random(8)
    texts = [prompt(draw, odd, 20) for odd in (0.0, 0.5) for _ in range(600)]
    found = values([("encode", text) for text in texts], tokenizer_tables(folder))
    merged = 0
    for text, theirs in zip(texts, found, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            own = tokenizer.encode(text)
        assert theirs["ids"] == list(own.ids), repr(text)
        assert [tokens for _, tokens in theirs["words"]] == [list(w.tokens) for w in own.words]
        merged += any(512 <= i < 49_406 for i in own.ids)
    assert merged > 1000, "merges of the large vocabulary must count"
