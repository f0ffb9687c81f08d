"""Tokens, the words they belong to, and the words that two prompts differ in."""

import difflib
import json
import re
import string
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
    padding. added: texts of the tokens that were added to the vocabulary (textual inversion) and
    occur here. name: what errors call it. cut: the end of the text that did not fit, mostly "".
    """

    text: str
    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    words: tuple[Word, ...]
    length: int
    name: str = field(default="the prompt", compare=False)
    cut: str = field(default="", compare=False)
    added: tuple[str, ...] = ()

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
        punctuation are ignored, that of added tokens not: `<cat>` is no `cat`. PromptError naming the
        word and the prompt if it does not occur, or was cut away.
        """
        phrases = [words] if isinstance(words, str) else list(words)
        return tuple(
            sorted({position for phrase in phrases for position in self._find_phrase(phrase)})
        )

    def bare(self, word: str) -> str:
        """A word as it is compared."""
        return _bare(word, self.added)

    def _find_phrase(self, phrase: str) -> set[int]:
        wanted = [self.bare(word) for word in phrase.split()]
        present = [self.bare(word.text) for word in self.words]
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
        added = tokenizer.get_added_tokens_decoder()
        self._special = {i: token.content for i, token in added.items() if token.special}
        self._vectors = _vectors({t.content: i for i, t in added.items() if not t.special})
        self._added = {i: added[i].content for i in self._vectors}
        unknown = getattr(tokenizer.model, "unk_token", None)
        self._unknown = None if unknown is None else tokenizer.token_to_id(unknown)

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        max_length: int = DEFAULT_LENGTH,
        pad_token: str | None = None,
        added: Sequence[str] = (),
    ) -> "PromptTokenizer":
        """From a tokenizer.json, and these tokens added. BundleError naming the file if it is missing
        or damaged."""
        try:
            tokenizer = Tokenizer.from_file(str(path))
            tokenizer.add_tokens(list(added))
            return cls(tokenizer, max_length, pad_token)
        except BaseException as error:
            if isinstance(error, BundleError) or not _is_the_librarys(error):
                raise
            raise BundleError(f"{path} is not a readable tokenizer: {error}") from error

    @classmethod
    def from_folder(cls, path: str | Path, added: Sequence[str] = ()) -> "PromptTokenizer":
        """From a folder with tokenizer.json and tokenizer_config.json (model_max_length,
        pad_token), and these tokens added."""
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
        return cls.from_file(Path(path) / "tokenizer.json", length, pad, added)

    @property
    def vocabulary(self) -> int:
        """One more than the largest token id."""
        return 1 + max(self._tokenizer.get_vocab().values(), default=0)

    def id_of(self, token: str) -> int | None:
        """The id of a token of the vocabulary, None of any other text."""
        return self._tokenizer.token_to_id(token)

    def added_in(self, text: str) -> tuple[str, ...]:
        """The added tokens that a prompt has."""
        return self._named(self._content(text, "the prompt"))

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
        added = self._named(content)
        padding = self.max_length - length
        ids = (self._begin, *(i for i, _ in content), self.end, *[self.pad] * padding)
        offsets = ((0, 0), *(span for _, span in content), *[(0, 0)] * (padding + 1))
        tokens = Tokens(text, ids, offsets, _words(text, offsets), length, name, cut, added)
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
                content += [(own, (start, end)) for own in self._vectors.get(i, (i,))]
        return content

    def _named(self, content: Sequence[tuple[int, tuple[int, int]]]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._added[i] for i, _ in content if i in self._added))


def _vectors(added: Mapping[str, int]) -> dict[int, tuple[int, ...]]:
    """The ids that an added token stands for: `<cat>` has more vectors in `<cat>_1`, `<cat>_2`, as
    diffusers names them."""
    found = {}
    for name, first in added.items():
        ids = [first]
        while (more := added.get(f"{name}_{len(ids)}")) is not None:
            ids.append(more)
        found[first] = tuple(ids)
    return found


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
    added = source.added + target.added
    texts = [[_bare(word.text, added) for word in tokens.words] for tokens in (source, target)]
    steps = difflib.SequenceMatcher(None, *texts, autojunk=False).get_opcodes()
    changed = [step for step in steps if step[0] != "equal"]
    return (
        tuple(word for _, i, j, _, _ in changed for word in source.words[i:j]),
        tuple(word for _, _, _, i, j in changed for word in target.words[i:j]),
    )


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


def _bare(word: str, added: Sequence[str] = ()) -> str:
    """A word as compared: case-folded, without surrounding punctuation unless it is nothing
    else, or part of an added token."""
    folded = _folded(word)
    inner = [
        i
        for i, c in enumerate(folded)
        if c not in string.punctuation and unicodedata.category(c)[0] != "P"
    ]
    for token in map(_folded, added):
        for at in range(len(folded)):
            if folded.startswith(token, at):
                inner += [at, at + len(token) - 1]
    return folded[min(inner) : max(inner) + 1] if inner else folded


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()
