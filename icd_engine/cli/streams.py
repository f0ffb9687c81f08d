"""The three standard streams, each of which may be closed, full, a pipe, or unable to show a name."""

from __future__ import annotations

import codecs
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

from icd_engine.errors import IcdError, ImageError
from icd_engine.picture_files import MAX_FILE_BYTES, limit, read_file

STREAM = "-"  # in place of a file: standard input, or standard output
ANY_NAME = "icd-any-name"


# --- in ---------------------------------------------------------------------------------------


def read_given(path: str) -> bytes:
    """The file, or what comes through the pipe, that a command is given; "-" is standard input.
    Raises ImageError."""
    return _read_stdin() if path == STREAM else read_file(path)


def is_piped(path: str) -> bool:
    """Whether it has no name of its own, and can be read once."""
    plain = os.path.isfile(path) or os.path.isdir(path)
    return path == STREAM or (os.path.exists(path) and not plain)


def _read_stdin() -> bytes:
    if sys.stdin is None:
        raise ImageError("standard input is closed")
    if is_terminal(sys.stdin):
        raise ImageError("standard input is a terminal: send a picture through a pipe")
    try:
        return sys.stdin.buffer.read(limit("BYTES", MAX_FILE_BYTES) + 1)
    except OSError as error:
        raise ImageError(f"cannot read standard input: {error.strerror}") from None


# --- out --------------------------------------------------------------------------------------


class Checked:
    """Standard output whose refusals are IcdErrors, whoever writes to it: typer its help, say."""

    def __init__(self, stream: Any):
        self._stream = stream
        self._reason: str | None = None  # why it takes no more

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._refusing():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._refusing():
            self._stream.flush()

    def write_bytes(self, data: bytes) -> None:
        """A picture, at once."""
        with self._refusing():
            self._stream.flush()
            self._stream.buffer.write(data)
            self._stream.buffer.flush()

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            if self._reason is None:
                yield
        except OSError as error:
            self._reason = error.strerror or str(error)
            _give_up(self._stream)
        if self._reason is not None:  # again and again: typer tries a stream out, and forgives
            raise IcdError(f"cannot write to standard output: {self._reason}")


@contextmanager
def own_stdout() -> Iterator[None]:
    """Standard output that takes every file name, and says in one error that it is full or closed.

    Bytes of names that are no text come out as they are; characters that its encoding lacks are
    escaped.
    """
    out = sys.stdout
    before = getattr(out, "errors", None)
    codecs.register_error(ANY_NAME, _shown)
    _set_errors(out, ANY_NAME)
    try:
        with redirect_stdout(Checked(out)):
            yield
    finally:
        _set_errors(out, before)


def _set_errors(out: Any, errors: str | None) -> None:
    if hasattr(out, "reconfigure"):  # a StringIO has not, and takes every character
        with suppress(OSError):  # it flushes, and may be full: whoever writes next says so
            out.reconfigure(errors=errors)


def _shown(error: UnicodeError) -> tuple[str | bytes, int]:
    with suppress(UnicodeError):
        return codecs.lookup_error("surrogateescape")(error)
    return codecs.lookup_error("backslashreplace")(error)


def to_stderr(text: str) -> None:
    """Writes it at once, if anybody listens: there is nowhere else to say that nobody does."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        _give_up(sys.stderr)


def _give_up(stream: Any) -> None:
    """What is left in its buffer, and all that follows, goes nowhere: Python would try once more at
    its end, and complain by itself."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


def is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()


# --- warnings ---------------------------------------------------------------------------------


@contextmanager
def told_of_warnings(tell: Any) -> Iterator[None]:
    """Has tell(text) called for warnings, in place of a line of our source."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: tell(str(message))
        yield


def hush(quiet: bool) -> bool:
    """Callback of the option --quiet: no warnings until the command has ended."""
    if quiet:
        warnings.simplefilter("ignore")
    return quiet
