"""The training loop: exact resume, averaged weights, and processes that agree."""

import contextlib
import itertools
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from training.loop import Recipe, average_gradients, fit, launch

RECIPE = Recipe(samples=80, batch=4, lr=0.1, warmup=3, ema=0.9, weight_decay=0.01)


def train(folder, recipe, steps=None, workers=1):
    """Fits a small linear map to noisy data drawn from the loop's generator; stops hard after `steps`."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    taken = 0

    def loss(rng, count):
        nonlocal taken
        if steps is not None and taken == steps:
            raise KeyboardInterrupt
        taken += 1
        x = torch.from_numpy(rng.standard_normal((count, 3))).float()
        return {"loss": (model(x) - x[:, :2] * 2).square().mean()}

    averaged = fit("linear", folder, recipe, model, loss)
    return model, averaged


def test_resumed_run_equals_undisturbed(tmp_path, monkeypatch):
    monkeypatch.setattr("training.loop.SAVE_EVERY_SECONDS", 0.0)
    whole, whole_average = train(tmp_path / "whole", RECIPE)
    with contextlib.suppress(KeyboardInterrupt):
        train(tmp_path / "cut", RECIPE, steps=9)
    resumed, resumed_average = train(tmp_path / "cut", RECIPE)
    assert torch.equal(whole.weight, resumed.weight)
    assert torch.equal(whole_average.weight, resumed_average.weight)
    assert not torch.equal(whole.weight, whole_average.weight)


def test_log_says_where_it_is(tmp_path):
    train(tmp_path, RECIPE)
    last = json.loads((tmp_path / "linear.jsonl").read_text().splitlines()[-1])
    assert last["step"] == last["of"] == RECIPE.steps == 20
    assert last["samples"] == 80 and last["loss"] < 4


def test_learning_rate_rises_then_falls():
    recipe = replace(RECIPE, samples=4000)
    rates = [recipe.lr_at(step) for step in range(recipe.steps)]
    assert rates[0] < rates[1] < rates[2] == pytest.approx(recipe.lr)
    assert all(a >= b for a, b in itertools.pairwise(rates[3:]))
    assert rates[-1] < 0.011 * recipe.lr


def _average_of_ranks(folder) -> None:
    parameter = nn.Parameter(torch.zeros(3))
    rank = torch.distributed.get_rank()
    parameter.grad = torch.full((3,), float(rank))
    average_gradients([parameter])
    (folder / f"rank{rank}").write_text(str(parameter.grad.tolist()))


def test_processes_average_their_gradients(tmp_path):
    launch(_average_of_ranks, 2, tmp_path, tmp_path)
    assert [(tmp_path / f"rank{i}").read_text() for i in range(2)] == ["[0.5, 0.5, 0.5]"] * 2
