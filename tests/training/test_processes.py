"""Processes that train together share a batch and agree."""

import os
import subprocess
import sys

import pytest
import torch

from icd_engine.errors import SettingsError
from tests.training.linear import RECIPE, ROOT, train

PROCESSES = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
import torch
from torch import nn
from training import loop
model = nn.Linear(3, 1, bias=False)
nn.init.ones_(model.weight)
recipe = loop.Recipe(samples=8, batch=4, lr=0.1, warmup=0, ema=None)

def parts(rng, count):
    assert count == 2
    x = torch.from_numpy(rng.standard_normal((count, 3))).float()
    torch.save(x, Path({folder!r}) / f"x{{loop.rank()}}.pt")
    yield loop.Part("loss", model(x).square().mean())

loop.fit("linear", Path({folder!r}), recipe, model, parts)
torch.save(model.weight, Path({folder!r}) / f"w{{loop.rank()}}.pt")
"""


def test_processes_share_a_batch_and_agree(tmp_path):
    """Two processes: other samples each, one mean gradient, the same weights; a batch they cannot
    share is refused."""
    script = tmp_path / "run.py"
    script.write_text(PROCESSES.format(root=str(ROOT), folder=str(tmp_path)))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
    ]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    x, w = ([torch.load(tmp_path / f"{name}{i}.pt") for i in range(2)] for name in "xw")
    assert not torch.equal(*x) and torch.equal(*w)


def test_a_batch_must_divide_among_processes(tmp_path, monkeypatch):
    monkeypatch.setattr("training.loop.world_size", lambda: 3)
    with pytest.raises(SettingsError, match="batch 4 must be a multiple of 1 x 3"):
        train(tmp_path, RECIPE)
