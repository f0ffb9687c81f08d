"""The training loop: averages, passes, checks, and steps that are left out."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from torch import nn

from tests.training.linear import RECIPE, frozen_bias, train, weights
from training.checkpoint import trained
from training.loop import fit
from training.recipe import Part


def test_the_average_is_left_in_the_model(tmp_path):
    model = train(tmp_path, RECIPE)
    kept = weights(tmp_path)
    assert torch.equal(model.weight, kept["average.weight"])
    assert not torch.equal(model.weight, kept["model.weight"])
    assert torch.equal(trained(tmp_path / "linear.safetensors", frozen_bias()).weight, model.weight)
    assert torch.equal(train(tmp_path, RECIPE).weight, model.weight)  # a finished run does nothing


def test_average_of_the_weights_so_far(tmp_path):
    """e_k = 0.9 e_(k-1) + 0.1 p_k, from the start."""
    path = []
    for steps in (1, 2, 3):
        recipe = replace(RECIPE, samples=4 * steps, cosine=False)
        train(tmp_path / str(steps), recipe)
        path.append(weights(tmp_path / str(steps)))
    torch.manual_seed(0)
    average = frozen_bias().weight.detach()
    for kept in path:
        average = 0.9 * average + 0.1 * kept["model.weight"]
        torch.testing.assert_close(kept["average.weight"], average)


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
