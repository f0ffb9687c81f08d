"""Tokens, words, alignment of the page's own tokenizer are Python's, on thousands of prompts."""

import random
import warnings

import pytest

from icd_engine.automatic import changed_words
from icd_engine.editing.plan import align
from icd_engine.errors import PromptError
from tests.export.web.node import answers, needs_node, values
from tests.export.web.prompts import ODD, TABLES, TOKENIZERS, WORDS, prompt

pytestmark = [needs_node, pytest.mark.parametrize("kind", TOKENIZERS)]


def encoded(kind: str, text: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TOKENIZERS[kind].encode(text)


def test_tokens_and_words(kind):
    draw = random.Random(f"tokens {kind}")
    texts = ["", " ", *ODD, *(prompt(draw, odd) for odd in (0.0, 0.3, 0.8) for _ in range(700))]
    texts += [prompt(draw, 0.3, 120) for _ in range(60)]
    found = values([("encode", text) for text in texts], TABLES[kind])
    for text, theirs in zip(texts, found, strict=True):
        own = encoded(kind, text)
        words = [[word.text, list(word.tokens)] for word in own.words]
        assert theirs["ids"] == list(own.ids), repr(text)
        assert (theirs["words"], theirs["length"]) == (words, own.length), repr(text)


def test_a_long_prompt_is_cut_where_pythons_is(kind):
    text = "a red cat on the sofa, " * 30
    (theirs,) = values([("encode", text)], TABLES[kind])
    with pytest.warns(UserWarning, match="this part is cut") as told:
        TOKENIZERS[kind].encode(text)
    assert theirs["cut"] and repr(theirs["cut"][:200])[:-1] in str(told[0].message)


def test_text_that_is_none_is_refused(kind):
    given = (None, 3, ["a"], "a \ud800 cat", {"a": 1})
    found = answers([("encode", text) for text in given], TABLES[kind])
    assert [one["error"] for one in found] == ["PromptError"] * len(given)
    assert all("must be a text of valid characters" in one["text"] for one in found)


def test_words_are_found(kind):
    draw = random.Random(f"find {kind}")
    cases = []
    for _ in range(600):
        text = prompt(draw, draw.choice((0.0, 0.5)), 100 if draw.random() < 0.1 else 12)
        words = text.split() or ["a"]
        start = draw.randrange(len(words))
        phrase = " ".join(words[start : start + draw.randint(1, 3)])
        phrase = draw.choice((phrase, phrase.upper(), phrase.title(), f"({phrase})!", "zebra", " "))
        cases.append(("find", text, phrase))
    refused = 0
    for (_, text, phrase), theirs in zip(cases, answers(cases, TABLES[kind]), strict=True):
        try:
            wanted = list(encoded(kind, text).find(phrase))
        except PromptError as error:
            refused += 1
            assert theirs["error"] == "PromptError", (text, phrase)
            assert ("beyond" in theirs["text"]) == ("beyond" in str(error)), (text, phrase)
        else:
            assert theirs.get("value") == wanted, (text, phrase, theirs)
    assert 50 < refused < 500


def test_prompts_are_aligned_and_their_differences_found(kind):
    draw = random.Random(f"align {kind}")
    pairs = []
    for _ in range(600):
        source = prompt(draw, draw.choice((0.0, 0.2))).split()
        target = list(source)
        for _ in range(draw.randint(0, 4)):
            at = draw.randint(0, len(target))
            target[at : at + draw.randint(0, 2)] = [
                draw.choice(WORDS) for _ in range(draw.randint(0, 2))
            ]
        pairs.append((" ".join(source), " ".join(target) or "a"))
    calls = [(name, *pair) for name in ("align", "changed") for pair in pairs]
    found = values(calls, TABLES[kind])
    for (source, target), m, changed in zip(
        pairs, found[: len(pairs)], found[len(pairs) :], strict=True
    ):
        both = encoded(kind, source), encoded(kind, target)
        assert m == align(*both)[0].tolist(), (source, target)
        wanted = changed_words(*both)
        assert changed == (None if wanted is None else [list(one) for one in wanted]), (
            source,
            target,
        )
