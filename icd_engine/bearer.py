"""The token of services that listen: what a header must hold, and which tokens a header can hold."""

from __future__ import annotations

import hmac
from collections.abc import Iterable


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes:
    """The first header of that name, in lower case; empty where there is none."""
    return next((value for key, value in headers if key == name), b"")


def bears(headers: Iterable[tuple[bytes, bytes]], token: str) -> bool:
    """Whether a request says `Authorization: Bearer TOKEN`."""
    kind, _, given = header(headers, b"authorization").partition(b" ")
    # Both comparisons always: how long they take tells nothing
    return hmac.compare_digest(given.strip(), token.encode()) & (kind.lower() == b"bearer")


def is_sendable(token: str) -> bool:
    """Whether a header can hold it."""
    return token.isascii() and token.isprintable() and token.strip() == token != ""
