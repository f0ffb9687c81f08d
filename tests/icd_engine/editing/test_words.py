"""Tokens, words and alignment, on a byte-pair and on a word-level tokenizer."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, strategies
from hypothesis import settings as hypothesis_settings
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from icd_engine.editing.plan import align
from icd_engine.editing.words import PromptTokenizer
from icd_engine.errors import BundleError, PromptError

FOLDER = Path(__file__).parents[2] / "data" / "bpe_tokenizer"
BPE = PromptTokenizer.from_folder(FOLDER)
BEGIN, END = 561, 562


def word_level(split=pre_tokenizers.WhitespaceSplit):
    vocabulary = ["<|startoftext|>", "<|endoftext|>", "[UNK]", *"abcdefg", "red", "dog"]
    tokenizer = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = split()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[("<|startoftext|>", 0), ("<|endoftext|>", 1)],
    )
    tokenizer.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    # A file may come with settings of its own; PromptTokenizer pads and cuts by itself.
    tokenizer.enable_padding(length=5)
    tokenizer.enable_truncation(max_length=4)
    return PromptTokenizer(tokenizer, max_length=16)


WORDS = word_level()


def test_bpe_prompt():
    tokens = BPE.encode("a  Cat sits")
    assert tokens.ids == (BEGIN, 320, 525, 547, *[END] * 73) and tokens.length == 5
    assert tokens.offsets[:5] == ((0, 0), (0, 1), (3, 6), (7, 11), (0, 0))
    assert [(w.text, w.tokens) for w in tokens.words] == [
        ("a", (1,)),
        ("Cat", (2,)),
        ("sits", (3,)),
    ]


def test_word_level_prompt():
    tokens = WORDS.encode("a red\tdog zebra a b")
    assert tokens.ids == (0, 3, 10, 11, 2, 3, 4, *[1] * 9) and tokens.length == 8
    assert [w.tokens for w in tokens.words] == [(1,), (2,), (3,), (4,), (5,), (6,)]


@pytest.mark.parametrize("tokenizer", [BPE, WORDS], ids=["bpe", "word-level"])
@pytest.mark.parametrize("text", ["", "  \n\t "], ids=["empty", "white-space"])
def test_prompt_without_words(tokenizer, text):
    tokens = tokenizer.encode(text)
    assert tokens.words == () and tokens.length == 2 and len(set(tokens.ids)) == 2


@pytest.mark.parametrize(
    "text",
    [
        "🐶 plays",
        "שלום עולם",
        "E\u0301mile",
        "👩‍👩‍👧 x",
        "a\x00b \u200b",
        "x\u00a0y",
        "\u2028z",
        "ﬁne ǅ ß",
        "<|endoftext|>x",
    ],
    ids=[
        "emoji",
        "right-to-left",
        "combining",
        "joined-emoji",
        "nul",
        "nbsp",
        "separator",
        "ligature",
        "special",
    ],
)
@pytest.mark.parametrize("tokenizer", [BPE, WORDS], ids=["bpe", "word-level"])
def test_every_token_has_its_word(tokenizer, text):
    tokens = tokenizer.encode(text)
    owned = sorted(p for word in tokens.words for p in word.tokens)
    assert owned == list(range(1, tokens.length - 1))
    for word in tokens.words:
        assert all(text[slice(*tokens.offsets[p])].strip() in word.text for p in word.tokens)


@given(strategies.text(max_size=120))
@hypothesis_settings(max_examples=100, deadline=None)
@pytest.mark.filterwarnings("ignore:prompt is longer")
def test_any_text_is_framed_and_padded(text):
    tokens = BPE.encode(text)
    assert len(tokens.ids) == len(tokens.offsets) == 77
    assert tokens.ids[0] == BEGIN and END not in tokens.ids[1 : tokens.length - 1]
    assert set(tokens.ids[tokens.length - 1 :]) == {END}


@pytest.mark.parametrize("split", [pre_tokenizers.WhitespaceSplit, pre_tokenizers.Whitespace])
@pytest.mark.parametrize("special", ["<|endoftext|>", "<|startoftext|>", "<|EndOfText|>"])
def test_special_token_text_stays_text(split, special):
    for tokenizer, unknown in ((BPE, None), (word_level(split), 2)):
        tokens = tokenizer.encode(f"a {special} dog")
        inside = tokens.ids[1 : tokens.length - 1]
        assert not {tokens.ids[0], tokens.ids[tokens.length - 1]} & set(inside)
        assert unknown is None or unknown in inside
        assert [w.text for w in tokens.words] == ["a", special, "dog"]


def test_long_prompt_is_cut_with_a_warning():
    with pytest.warns(UserWarning, match="16 tokens.*'c dog red'") as caught:
        tokens = WORDS.encode("a b " * 7 + "c dog red")
    assert caught[0].filename == __file__
    assert tokens.length == 16 and tokens.ids[-1] == 1
    assert [w.tokens for w in tokens.words][-4:] == [(14,), (), (), ()]
    assert tokens.find("b") == tuple(range(2, 15, 2))
    with pytest.raises(PromptError, match="'dog' is beyond the 16 tokens"):
        tokens.find("dog")


@pytest.mark.filterwarnings("ignore:prompt is longer")
@pytest.mark.parametrize("text", ["x" * 10_000, "dog " * 2_500], ids=["one-word", "many-words"])
def test_ten_thousand_characters(text):
    assert BPE.encode(text).length == 77


@pytest.mark.parametrize(
    "text",
    ["\ud800", None, 3, b"dog", ["a", "dog"]],
    ids=["surrogate", "none", "int", "bytes", "list"],
)
def test_prompt_that_is_no_text(text):
    with pytest.raises(PromptError, match="prompt must be a text"):
        BPE.encode(text)


@pytest.mark.parametrize(
    ("wanted", "texts"),
    [
        ("dog", ["Dog,", "dog"]),
        ("DOG!", ["Dog,", "dog"]),
        ("polar bear", ["polar", "bear"]),
        (["red", "dog"], ["Dog,", "red", "dog"]),
        ("red  dog", ["red", "dog"]),
        ("...", ["..."]),
        ("well-known", ["“Well-known”"]),
    ],
)
def test_find(wanted, texts):
    tokens = BPE.encode("Dog, red dog; bear polar bear ... “Well-known”".replace(";", ""))
    expected = []
    used = [w for w in tokens.words]
    for text in texts:
        word = next(w for w in (reversed(used) if text == "bear" else used) if w.text == text)
        expected += word.tokens
    assert tokens.find(wanted) == tuple(sorted(expected))


@pytest.mark.parametrize("wanted", ["cat", "dog red", "do", "", ["red", "cat"]])
def test_absent_word_is_named_with_the_prompt(wanted):
    missing = wanted if isinstance(wanted, str) else "cat"
    with pytest.raises(PromptError, match=f"'{missing}' does not occur in the prompt 'a red dog'"):
        WORDS.encode("a red dog").find(wanted)


def test_other_padding_token(tmp_path):
    shutil.copy(FOLDER / "tokenizer.json", tmp_path)
    config = {"model_max_length": 10, "pad_token": {"content": "!"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert PromptTokenizer.from_folder(tmp_path).encode("a cat").ids == (
        BEGIN,
        320,
        525,
        END,
        *[0] * 6,
    )


@pytest.mark.parametrize(
    ("config", "tokenizer", "message"),
    [
        (None, "{}", "tokenizer_config.json is not"),
        ("[]", "{}", "tokenizer_config.json is not"),
        ('{"model_max_length": "x"}', "{}", "tokenizer_config.json is not"),
        ("{}", None, "tokenizer.json is not"),
        ("{}", "{", "tokenizer.json is not"),
        ('{"pad_token": "nowhere"}', "copy", "'nowhere'"),
        ('{"pad_token": 5}', "copy", "padding token 5"),
        ('{"pad_token": {"content": [1]}}', "copy", r"padding token \[1\]"),
        ('{"model_max_length": 2}', "copy", "at least 3"),
    ],
    ids=[
        "no-config",
        "list",
        "length",
        "no-file",
        "damaged",
        "pad-token",
        "number",
        "list-token",
        "short",
    ],
)
def test_bad_folder(tmp_path, config, tokenizer, message):
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(config)
    if tokenizer == "copy":
        shutil.copy(FOLDER / "tokenizer.json", tmp_path)
    elif tokenizer is not None:
        (tmp_path / "tokenizer.json").write_text(tokenizer)
    with pytest.raises(BundleError, match=message):
        PromptTokenizer.from_folder(tmp_path)


def test_a_panic_of_the_library_is_an_error(tmp_path):
    """A template that names a token it does not know ends the library's Rust code, by what is no
    Exception."""
    values = json.loads((FOLDER / "tokenizer.json").read_text())
    values["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "nowhere", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [],
        "special_tokens": {},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(
        BundleError, match=r"tokenizer\.json is not a readable tokenizer|cannot read the prompt ''"
    ):
        PromptTokenizer.from_file(tmp_path / "tokenizer.json")


def test_a_vocabulary_without_its_unknown_word_is_an_error():
    """Found out by the first word that it lacks."""
    tokenizer = Tokenizer(models.WordLevel({"[B]": 0, "[E]": 1, "cat": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[B] $A [E]", special_tokens=[("[B]", 0), ("[E]", 1)]
    )
    prompts = PromptTokenizer(tokenizer)
    assert prompts.encode("cat").ids[:3] == (0, 2, 1)
    with pytest.raises(BundleError, match=r"the tokenizer cannot read the prompt 'a cat': .*UNK"):
        prompts.encode("a cat")


def test_tokenizer_without_begin_and_end():
    with pytest.raises(BundleError, match="begin and an end"):
        PromptTokenizer(Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")))


@pytest.mark.parametrize(
    ("source", "target", "m"),
    [
        ("a b c", "a b c", [1, 2, 3]),
        ("a b c", "a d b c", [1, -1, 2, 3]),
        ("a d b c", "a b c", [1, 3, 4]),
        ("a b c", "a d c", [1, -1, 3]),
        ("a b", "c d", [-1, -1]),
        ("a", "a a", [1, -1]),
        ("a a", "a", [1]),
        ("a b", "b a", [2, -1]),
        ("a b c d", "d a b", [-1, 1, 2]),
        ("", "a b", [-1, -1]),
        ("a b", "", []),
    ],
    ids=lambda v: str(v).replace(" ", ""),
)
def test_alignment_by_hand(source, target, m):
    """m over the content; begin meets begin, end meets end, padding meets itself."""
    x, y = WORDS.encode(source), WORDS.encode(target)
    expected = [0, *m, x.length - 1, *range(y.length, 16)]
    found, aligned = align(x, y)
    assert found.tolist() == expected
    assert aligned.tolist() == [float(i >= 0) for i in expected]
