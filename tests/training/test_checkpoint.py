"""Exact resume, even after SIGKILL, and of the same model only."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from torch import nn

from icd_engine.errors import SettingsError
from tests.training.linear import RECIPE, ROOT, frozen_bias, train, weights
from training.loop import fit


@pytest.mark.parametrize(
    "change",
    [{}, {"alternating": True}, {"accumulate": 2}, {"ema": None}, {"precision": "fp16"}],
    ids=str,
)
def test_resumed_run_equals_undisturbed(tmp_path, monkeypatch, change):
    monkeypatch.setattr("training.loop.SAVE_EVERY_SECONDS", 0.0)
    recipe = replace(RECIPE, **change)
    whole = train(tmp_path / "whole", recipe)
    with contextlib.suppress(KeyboardInterrupt):
        train(tmp_path / "cut", recipe, steps=9)
    assert len(weights(tmp_path / "cut")) == len(weights(tmp_path / "whole"))
    resumed = train(tmp_path / "cut", recipe)
    assert torch.equal(whole.weight, resumed.weight)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


SLEEPER = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
import numpy as np, torch
from torch import nn
from training import loop
loop.SAVE_EVERY_SECONDS = 0.0
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Dropout(0.0), nn.Linear(64, 2))

def parts(rng, count):
    time.sleep({pause})
    x = torch.from_numpy(rng.standard_normal((count, 3))).float()
    yield loop.Part("loss", (model(x) - x[:, :2] * 2).square().mean())

loop.fit("linear", Path({folder!r}), loop.Recipe(samples=400, batch=4, lr=0.1, ema=0.9), model, parts)
"""


def test_killed_and_resumed_is_bit_identical(tmp_path):
    """SIGKILL at whatever moment, three times, saves included: no broken file, and the same weights
    in the end."""

    def start(name, pause):
        code = SLEEPER.format(root=str(ROOT), folder=str(tmp_path / name), pause=pause)
        return subprocess.Popen(
            [sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"}
        )

    assert start("whole", 0).wait() == 0
    file, reached = tmp_path / "killed" / "linear.safetensors", -1
    for _ in range(3):
        process = start("killed", 0.02)
        while process.poll() is None and _step(file) < reached + 5:
            time.sleep(0.003)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        reached = _step(file)
    assert 12 <= reached < 100
    assert start("killed", 0).wait() == 0
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def _step(path) -> int:
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        return int(file.metadata()["step"])


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    train(tmp_path, RECIPE)
    for model, recipe, message in (
        (nn.Linear(3, 2), RECIPE, "'bias'"),
        (nn.Linear(4, 2), RECIPE, "'bias'"),
        (frozen_bias(), replace(RECIPE, ema=None), "ema"),
    ):
        with pytest.raises(SettingsError, match=message):
            fit("linear", tmp_path, recipe, model, lambda rng, count: [])
