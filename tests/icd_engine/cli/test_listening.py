"""Commands that listen: which addresses others reach, and that nobody is asked for this machine."""

from __future__ import annotations

import os
import urllib.request

import pytest

from icd_engine.cli.listening import NO_PROXY, is_loopback, spare_local


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("127.0.0.1", True), ("::1", True), ("127.9.9.9", True)]
    + [("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example.com", False)],
)
def test_addresses_of_this_machine(host, expected):
    assert is_loopback(host) == expected


@pytest.mark.parametrize("given", [None, "", "example.com", "localhost, example.com"])
def test_a_proxy_is_not_asked_for_this_machine(monkeypatch, given):
    for name in NO_PROXY:
        monkeypatch.setenv(name, "set")  # so that what is there comes back
        monkeypatch.delenv(name)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    if given is not None:
        monkeypatch.setenv("NO_PROXY", given)
    spare_local("10.0.0.5")
    spare_local("10.0.0.5")
    names = os.environ["no_proxy"].split(",")
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] and len(names) == len(set(names))
    for host in ("localhost", "127.0.0.1", "10.0.0.5"):
        assert urllib.request.proxy_bypass(host)
    assert bool(urllib.request.proxy_bypass("example.com")) == ("example.com" in (given or ""))
    assert not urllib.request.proxy_bypass("other.example.org")
