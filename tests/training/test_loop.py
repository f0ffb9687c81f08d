"""The training loop: exact resume even after SIGKILL, averages, passes, and processes that
agree."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from icd_engine.errors import SettingsError
from training.checkpoint import trained
from training.loop import fit
from training.recipe import Part, Recipe

ROOT = Path(__file__).parents[2]
RECIPE = Recipe(samples=80, batch=4, lr=0.1, warmup=3, ema=0.9, weight_decay=0.01)


def train(folder, recipe, steps=None, check=None, spoil=None):
    """Fits a small linear map to noisy data drawn from the loop's generator; stops hard after
    `steps`."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    taken = 0

    def parts(rng, count):
        nonlocal taken
        if taken == steps:
            raise KeyboardInterrupt
        taken += 1
        x = torch.from_numpy(rng.standard_normal((count, 3))).float()
        if taken == spoil:
            x = x / 0

        def error():
            return model(x) - x[:, :2] * 2

        yield Part("squared", error().square().mean())
        yield Part("absolute", error().abs().mean(), weight=0.5)
        yield Part("watched", error().abs().max(), weight=0.0)

    fit("linear", folder, recipe, model, parts, check and (lambda: check(model)))
    return model


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "linear.safetensors")


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


def test_the_average_is_left_in_the_model(tmp_path):
    model = train(tmp_path, RECIPE)
    kept = weights(tmp_path)
    assert torch.equal(model.weight, kept["average.weight"])
    assert not torch.equal(model.weight, kept["model.weight"])
    assert torch.equal(
        trained(tmp_path / "linear.safetensors", _frozen_bias()).weight, model.weight
    )
    assert torch.equal(train(tmp_path, RECIPE).weight, model.weight)  # a finished run does nothing


def _frozen_bias() -> nn.Linear:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    return model


def test_average_of_the_weights_so_far(tmp_path):
    """e_k = 0.9 e_(k-1) + 0.1 p_k, from the start."""
    path = []
    for steps in (1, 2, 3):
        recipe = replace(RECIPE, samples=4 * steps, cosine=False)
        train(tmp_path / str(steps), recipe)
        path.append(weights(tmp_path / str(steps)))
    torch.manual_seed(0)
    average = _frozen_bias().weight.detach()
    for kept in path:
        average = 0.9 * average + 0.1 * kept["model.weight"]
        torch.testing.assert_close(kept["average.weight"], average)


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


def test_accumulated_passes_are_one_batch(tmp_path):
    """The mean over two passes of two is the gradient of all four: one step of plain descent shows
    it."""
    recipe = replace(RECIPE, samples=4, warmup=0, ema=None)
    draws = []

    def drawn(recipe, folder):
        torch.manual_seed(0)
        model = nn.Linear(3, 1, bias=False)

        def parts(rng, count):
            x = (
                torch.from_numpy(rng.standard_normal((count, 3))).float()
                if recipe.accumulate > 1
                else torch.cat(draws)
            )
            draws.append(x)
            yield Part("loss", model(x).square().mean())

        fit("linear", folder, recipe, model, parts)
        return weights(folder)

    passes = drawn(replace(recipe, accumulate=2), tmp_path / "passes")
    assert [len(x) for x in draws] == [2, 2]
    whole = drawn(recipe, tmp_path / "whole")
    for key, value in whole.items():  # the moments hold the gradient itself
        torch.testing.assert_close(passes[key], value)


def test_alternating_steps_take_each_part_in_turn(tmp_path):
    """Two optimiser steps for two weighted parts, where their sum takes one; what is only watched
    takes none."""

    def steps(alternating):
        train(tmp_path / str(alternating), replace(RECIPE, samples=4, alternating=alternating))
        return int(weights(tmp_path / str(alternating))["optimiser.0.step"])

    assert (steps(False), steps(True)) == (1, 2)


def test_log_says_where_it_is(tmp_path):
    train(tmp_path, RECIPE)
    last = json.loads((tmp_path / "linear.jsonl").read_text().splitlines()[-1])
    assert last["step"] == last["of"] == RECIPE.steps == 20
    assert last["samples"] == 80 and last["squared"] < 4 and last["watched"] > 0


def test_tensorboard_gets_scalars_and_pictures(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(
        tmp_path,
        replace(RECIPE, check_every=10),
        check=lambda model: {"grid": torch.zeros(4, 6, 3).byte().numpy()},
    )
    events = EventAccumulator(str(tmp_path / "tensorboard" / "linear"))
    events.Reload()
    assert {"squared", "absolute", "norm"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Images("grid")] == [10, 20]
    assert (events.Images("grid")[0].width, events.Images("grid")[0].height) == (6, 4)


def test_checks_see_the_average_and_disturb_nothing(tmp_path):
    seen = []
    plain = train(tmp_path / "plain", RECIPE)
    model = train(
        tmp_path / "checked",
        replace(RECIPE, check_every=7),
        check=lambda m: seen.append(m.weight.clone()) or {"x": 1.0},
    )
    assert len(seen) == 3  # steps 7, 14 and the last
    assert torch.equal(seen[-1], weights(tmp_path / "checked")["average.weight"])
    assert torch.equal(plain.weight, model.weight)
    lines = [
        json.loads(line)
        for line in (tmp_path / "checked" / "linear.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines if "x" in line] == [7, 14, 20]


def test_numbers_that_are_not_finite_stop_the_run_and_spoil_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("training.loop.SAVE_EVERY_SECONDS", 0.0)
    with pytest.raises(FloatingPointError, match="step 5"):
        train(tmp_path, RECIPE, spoil=6)
    assert all(value.isfinite().all() for value in weights(tmp_path).values())
    undisturbed = train(tmp_path / "whole", RECIPE)
    assert torch.equal(train(tmp_path, RECIPE).weight, undisturbed.weight)


def test_half_precision_leaves_such_a_step_out(tmp_path):
    """The scaler halves its scale, which the checkpoint keeps, and every number stays finite."""
    train(tmp_path, replace(RECIPE, precision="fp16"), spoil=6)
    with safe_open(tmp_path / "linear.safetensors", "pt") as file:
        assert json.loads(file.metadata()["scaler"])["scale"] == 2.0**15
    kept = weights(tmp_path)
    assert (
        all(value.isfinite().all() for value in kept.values())
        and kept["optimiser.0.step"] == RECIPE.steps - 1
    )


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    train(tmp_path, RECIPE)
    for model, recipe, message in (
        (nn.Linear(3, 2), RECIPE, "'bias'"),
        (nn.Linear(4, 2), RECIPE, "'bias'"),
        (_frozen_bias(), replace(RECIPE, ema=None), "ema"),
    ):
        with pytest.raises(SettingsError, match=message):
            fit("linear", tmp_path, recipe, model, lambda rng, count: [])


def test_learning_rate_rises_then_falls():
    recipe = replace(RECIPE, samples=4000)
    rates = [recipe.lr_at(step) for step in range(recipe.steps)]
    assert rates[0] < rates[1] < rates[2] == pytest.approx(recipe.lr)
    assert all(a >= b for a, b in itertools.pairwise(rates[3:]))
    assert rates[-1] < 0.011 * recipe.lr
    assert {replace(recipe, cosine=False).lr_at(step) for step in (3, 500, 999)} == {recipe.lr}


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
