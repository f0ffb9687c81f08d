"""Tokens in headers."""

from __future__ import annotations

import pytest

from icd_engine.bearer import bears, header, is_sendable


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"Bearer right", True), (b"bearer  right ", True), (b"Bearer wrong", False)]
    + [(b"Basic right", False), (b"right", False), (b"Bearer ", False), (b"Bearer r\xe9", False)],
)
def test_what_a_request_bears(value, expected):
    assert bears([(b"host", b"x"), (b"authorization", value)], "right") == expected
    assert not bears([(b"x-authorization", value)], "right")


def test_the_first_header_counts():
    assert header([(b"a", b"1"), (b"a", b"2")], b"a") == b"1"
    assert header([], b"a") == b""


@pytest.mark.parametrize(
    ("token", "expected"), [("a b", True), ("", False), (" a", False), ("é", False), ("\n", False)]
)
def test_what_a_header_can_hold(token, expected):
    assert is_sendable(token) == expected
