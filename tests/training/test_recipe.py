"""The learning rate of a recipe."""

import itertools
from dataclasses import replace

import pytest

from tests.training.linear import RECIPE


def test_learning_rate_rises_then_falls():
    recipe = replace(RECIPE, samples=4000)
    rates = [recipe.lr_at(step) for step in range(recipe.steps)]
    assert rates[0] < rates[1] < rates[2] == pytest.approx(recipe.lr)
    assert all(a >= b for a, b in itertools.pairwise(rates[3:]))
    assert rates[-1] < 0.011 * recipe.lr
    assert {replace(recipe, cosine=False).lr_at(step) for step in (3, 500, 999)} == {recipe.lr}
