"""`icd serve`, before it starts anything: every mistake is one line and an exit code."""

from __future__ import annotations

import socket

import pytest

from icd_engine.cli import main


def check_refused(capsys, arguments: list[str], code: int, *parts: str) -> None:
    assert main(["serve", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("icd: error: ") and err.count("\n") == 1
    for part in parts:
        assert part in err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_another_address_needs_a_token(capsys, monkeypatch, host):
    monkeypatch.delenv("ICD_TOKEN", raising=False)
    check_refused(capsys, ["--host", host], 2, "--host", host, "ICD_TOKEN")


@pytest.mark.parametrize("token", ["", " ", "a ", "two\nlines", "é"])
def test_a_token_is_something_that_a_header_can_hold(capsys, token):
    check_refused(capsys, ["--token", token], 2, "--token")


def test_a_token_of_the_environment_counts(capsys, monkeypatch):
    monkeypatch.setenv("ICD_TOKEN", "right")
    check_refused(capsys, ["--host", "0.0.0.0", "--model", "/no/such/folder"], 1, "/no/such/folder")


def test_a_gpu_is_not_named(capsys):
    check_refused(capsys, ["--device", "cuda:1"], 2, "--device", "CUDA_VISIBLE_DEVICES")


def test_a_port_that_is_taken(capsys, small_bundle):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        check_refused(
            capsys, ["--port", port, "--model", str(small_bundle)], 1, "127.0.0.1", port, "in use"
        )
