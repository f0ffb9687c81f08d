"""The log says where training is, in files and in TensorBoard."""

import json
from dataclasses import replace

import pytest
import torch

from tests.training.linear import RECIPE, train


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
