"""Tokens, the words they belong to, and the alignment of two prompts."""

import difflib
import json
import re
import string
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from icd_engine.errors import BundleError, PromptError, shown

DEFAULT_LENGTH = 77
# What other programs read as weights: (word:1.3), ((word)), [word]. A time such as (at 12:30) is none,
# nor is what a backslash takes out.
_EMPHASIS = re.compile(
    r"(?<!\\)(?:\([^()]*(?:[^()\d\s]\s*:\s*[+-]?\d+|:\s*[+-]?\d*\.\d+)\s*\)"
    r"|\(\s*\([^()]+\)\s*\)|\[[^\[\]]+\])"
)


@dataclass(frozen=True)
class Word:
    """A run of characters without white space, and the positions of its tokens (none if it was cut
    away)."""

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Tokens:
    """A prompt as the text encoder sees it.

    ids: begin token, content, end token, padding, n in all. offsets: [n] pairs of character
    positions in `text`, (0, 0) for the tokens that are not content. length: tokens before the
    padding. name: what errors call it. cut: the end of the text that did not fit, mostly "".
    """

    text: str
    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    words: tuple[Word, ...]
    length: int
    name: str = field(default="the prompt", compare=False)
    cut: str = field(default="", compare=False)

    @property
    def cut_note(self) -> str:
        """What a user is told of the text that was cut."""
        begin = self.cut if len(self.cut) <= 200 else self.cut[:200] + "..."
        return f"{self.name} is longer than {len(self.ids)} tokens, this part is cut: {begin!r}"

    def padded(self, pad: int) -> tuple[int, ...]:
        """The same ids with another padding token, as another text encoder of the same vocabulary
        may have it."""
        return self.ids[: self.length] + (pad,) * (len(self.ids) - self.length)

    def find(self, words: str | Sequence[str]) -> tuple[int, ...]:
        """Token positions, ascending, of every occurrence of one or several words.

        A string of several words is a phrase and must match consecutive words. Case and surrounding
        punctuation are ignored. PromptError naming the word and the prompt if it does not occur, or
        was cut away.
        """
        phrases = [words] if isinstance(words, str) else list(words)
        return tuple(
            sorted({position for phrase in phrases for position in self._find_phrase(phrase)})
        )

    def _find_phrase(self, phrase: str) -> set[int]:
        wanted = [_bare(word) for word in phrase.split()]
        present = [_bare(word.text) for word in self.words]
        starts = [
            i for i in range(len(present)) if wanted and present[i : i + len(wanted)] == wanted
        ]
        if not starts:
            raise PromptError(f"{shown(phrase)} does not occur in {self.name} {shown(self.text)}")
        found = {p for i in starts for word in self.words[i : i + len(wanted)] for p in word.tokens}
        if not found:
            raise PromptError(
                f"{shown(phrase)} is beyond the {len(self.ids)} tokens of {self.name} {shown(self.text)}"
            )
        return found


class PromptTokenizer:
    """Text -> Tokens, with a tokenizer in the format of the `tokenizers` library and no other
    framework."""

    def __init__(
        self, tokenizer: Tokenizer, max_length: int = DEFAULT_LENGTH, pad_token: str | None = None
    ) -> None:
        """`tokenizer` must add one begin and one end token; padding is the end token if `pad_token`
        is None."""
        # Padding and truncation are done here, so that the cut text can be named.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True
        frame = _encoded(tokenizer, "").ids
        if len(frame) != 2:
            raise BundleError(
                f"tokenizer must add a begin and an end token, but adds {len(frame)} tokens"
            )
        pad = frame[1]
        if pad_token is not None:
            pad = tokenizer.token_to_id(pad_token) if isinstance(pad_token, str) else None
        if pad is None:
            raise BundleError(f"tokenizer does not know its padding token {shown(pad_token)}")
        if max_length < 3:
            raise BundleError(f"tokenizer length must be at least 3, not {max_length}")
        self.max_length = max_length
        self._tokenizer = tokenizer
        self.pad = pad
        self._begin, self.end = frame
        self._special = {
            i: token.content
            for i, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        unknown = getattr(tokenizer.model, "unk_token", None)
        self._unknown = None if unknown is None else tokenizer.token_to_id(unknown)

    @classmethod
    def from_file(
        cls, path: str | Path, max_length: int = DEFAULT_LENGTH, pad_token: str | None = None
    ) -> "PromptTokenizer":
        """From a tokenizer.json. BundleError naming the file if it is missing or damaged."""
        try:
            return cls(Tokenizer.from_file(str(path)), max_length, pad_token)
        except BaseException as error:
            if isinstance(error, BundleError) or not _is_the_librarys(error):
                raise
            raise BundleError(f"{path} is not a readable tokenizer: {error}") from error

    @classmethod
    def from_folder(cls, path: str | Path) -> "PromptTokenizer":
        """From a folder with tokenizer.json and tokenizer_config.json (model_max_length,
        pad_token)."""
        file = Path(path) / "tokenizer_config.json"
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
            length = int(config.get("model_max_length", DEFAULT_LENGTH))
            pad = config.get("pad_token")
            pad = pad["content"] if isinstance(pad, dict) else pad
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise BundleError(
                f"{file} is not a readable tokenizer configuration: {error}"
            ) from error
        return cls.from_file(Path(path) / "tokenizer.json", length, pad)

    @property
    def vocabulary(self) -> int:
        """One more than the largest token id."""
        return 1 + max(self._tokenizer.get_vocab().values(), default=0)

    def encode(self, text: str, name: str = "the prompt") -> Tokens:
        """Tokens of a prompt, padded to max_length; an empty prompt is begin, end and padding.
        name: what errors and warnings call it.

        Text that spells a special token stays text. A prompt that is too long is cut, with a
        UserWarning naming the cut text. PromptError if `text` is not a string of valid characters.
        """
        content = self._content(text, name)
        room = self.max_length - 2
        cut = text[content[room][1][0] :] if len(content) > room else ""
        content = content[:room]
        length = len(content) + 2
        padding = self.max_length - length
        ids = (self._begin, *(i for i, _ in content), self.end, *[self.pad] * padding)
        offsets = ((0, 0), *(span for _, span in content), *[(0, 0)] * (padding + 1))
        tokens = Tokens(text, ids, offsets, _words(text, offsets), length, name, cut)
        if cut:
            warnings.warn(tokens.cut_note, UserWarning, stacklevel=2)
        return tokens

    def _content(self, text: str, name: str) -> list[tuple[int, tuple[int, int]]]:
        encoding = _encoded(self._tokenizer, text, name, add_special_tokens=False)
        content = []
        for i, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            # A word-level vocabulary holds the special tokens too: what a prompt spells out is an
            # unknown word.
            if i in self._special and text[start:end].casefold() == self._special[i].casefold():
                i = self._unknown
            if i is not None:
                content.append((i, (start, end)))
        return content


def _encoded(
    tokenizer: Tokenizer, text: str, name: str = "the prompt", **options: bool
) -> Encoding:
    try:
        return tokenizer.encode(text, **options)
    except (TypeError, ValueError) as error:
        raise PromptError(
            f"{name} must be a text of valid characters, not {shown(text)}"
        ) from error
    except BaseException as error:
        if not _is_the_librarys(error):
            raise
        raise BundleError(f"the tokenizer cannot read {name} {shown(text)}: {error}") from error


def _is_the_librarys(error: BaseException) -> bool:
    """The library raises plain Exception, and where its Rust code panics something that is none."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def emphasis(text: str) -> str | None:
    """The first part of a prompt that other programs read as a weight; it is plain text here."""
    found = _EMPHASIS.search(text)
    return None if found is None else found.group()


def differing(source: Tokens, target: Tokens) -> tuple[tuple[Word, ...], tuple[Word, ...]]:
    """The words of the source that the target has not in their place, and the other way around, as
    the longest common runs of words leave them."""
    texts = [[_bare(word.text) for word in tokens.words] for tokens in (source, target)]
    steps = difflib.SequenceMatcher(None, *texts, autojunk=False).get_opcodes()
    changed = [step for step in steps if step[0] != "equal"]
    return (
        tuple(word for _, i, j, _, _ in changed for word in source.words[i:j]),
        tuple(word for _, _, _, i, j in changed for word in target.words[i:j]),
    )


def align(source: Tokens, target: Tokens) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Needleman-Wunsch alignment of two token sequences: gap 0, match 1, mismatch -1 (begin and end
    included).

    Returns m [n], the source position of every target position (-1 = new), and a [n], 1 where
    aligned, 0 where new. Positions after the target's end map to themselves. Where scores tie, the
    traceback takes a target token as new first, then drops a source token, then pairs the two.
    """
    x = source.ids[: source.length]
    y = target.ids[: target.length]
    score = np.zeros((len(x) + 1, len(y) + 1), dtype=np.int64)
    for i, j in np.ndindex(len(x), len(y)):
        pair = score[i, j] + (1 if x[i] == y[j] else -1)
        score[i + 1, j + 1] = max(score[i + 1, j], score[i, j + 1], pair)
    m = np.arange(len(target.ids))
    i, j = len(x), len(y)
    while j > 0:
        if i == 0 or score[i, j] == score[i, j - 1]:
            j -= 1
            m[j] = -1
        elif score[i, j] == score[i - 1, j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            m[j] = i
    return m, (m >= 0).astype(np.float32)


def changed_words(source: Tokens, target: Tokens) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The words that differ (`differing`), as blend words; None where either prompt has none.

    A word that its prompt has elsewhere unchanged too (an article, say) does not count: it would
    stand for both places.
    """
    found = []
    for prompt, changed in zip((source, target), differing(source, target), strict=True):
        unchanged = {_bare(word.text) for word in prompt.words if word not in changed}
        texts = dict.fromkeys(_bare(word.text) for word in changed)
        found.append(tuple(text for text in texts if text not in unchanged))
    return (found[0], found[1]) if all(found) else None


def _words(text: str, offsets: Sequence[tuple[int, int]]) -> tuple[Word, ...]:
    """A token belongs to the word whose characters its offsets overlap."""
    words = []
    for match in re.finditer(r"\S+", text):
        overlap = (
            p
            for p, (start, end) in enumerate(offsets)
            if start < match.end() and end > match.start()
        )
        words.append(Word(match.group(), tuple(overlap)))
    return tuple(words)


def _bare(word: str) -> str:
    """A word as compared: case-folded, without surrounding punctuation unless it is nothing
    else."""
    folded = unicodedata.normalize("NFC", word).casefold()
    inner = [
        i
        for i, c in enumerate(folded)
        if c not in string.punctuation and unicodedata.category(c)[0] != "P"
    ]
    return folded[inner[0] : inner[-1] + 1] if inner else folded
