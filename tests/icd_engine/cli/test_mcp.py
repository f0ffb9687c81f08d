"""`icd mcp`: the official client starts it and talks to it; every mistake is one line and an exit
code."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icd_engine.cli import main
from tests.icd_engine.plain_loops import SOURCE, TARGET, picture

ROOT = Path(__file__).parents[3]
COMMAND = "import sys; from icd_engine.cli import main; sys.exit(main(['mcp', *sys.argv[1:]]))"


def test_the_official_client_over_standard_input(small_bundle, small_engine, tmp_path):
    pytest.importorskip("mcp")
    from mcp import Client, StdioServerParameters, stdio_client

    picture().save(tmp_path / "in.png")
    options = ["--model", str(small_bundle), "--device", "cpu", "--folder", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = StdioServerParameters(command=sys.executable, args=["-c", COMMAND, *options], env=env)
    given = {"image": "in.png", "prompt": TARGET, "source_prompt": SOURCE, "output": "out.png"}

    async def talk():
        async with Client(stdio_client(started)) as client:
            return await client.call_tool("edit_picture", given)

    assert not asyncio.run(talk()).is_error
    expected = np.asarray(small_engine.edit(picture(), SOURCE, TARGET).image).astype(int)
    # Another process may use another number of threads, and round otherwise
    assert np.abs(np.asarray(Image.open(tmp_path / "out.png")) - expected).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["--http", "--host", "0.0.0.0"], 2, "ICD_TOKEN"),
        (["--http", "--token", "a "], 2, "--token"),
        (["--folder", "/no/such/folder"], 1, "/no/such/folder is no folder"),
        (["--model", "/no/such/model"], 1, "/no/such/model"),
        (["--c2pa-cert", "chain.pem"], 2, "belong together"),
    ],
)
def test_mistakes(capsys, monkeypatch, arguments, code, part):
    pytest.importorskip("mcp")
    monkeypatch.delenv("ICD_TOKEN", raising=False)
    assert main(["mcp", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("icd: error: ") and err.count("\n") == 1 and part in err


def test_without_the_library(capsys, monkeypatch):
    monkeypatch.setattr("icd_engine.cli.mcp.find_spec", lambda name: None)
    assert main(["mcp"]) == 1
    assert "pip install 'icd-engine[mcp]'" in capsys.readouterr().err
