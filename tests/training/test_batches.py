"""Prompts of a batch, row by row."""

import pytest
import torch

pytest.importorskip("diffusers")


from icd_engine.networks.text_encoder import PromptFeatures
from training.batches import joined, some


def test_prompts_in_rows():
    one, two = (PromptFeatures(torch.full((2, 3, 4), v), torch.full((2, 5), v)) for v in (1.0, 2.0))
    both = joined([one, two])
    assert both.tokens[:, 0, 0].tolist() == both.pooled[:, 0].tolist() == [1, 1, 2, 2]
    assert some(both, 3).pooled.shape == (3, 5)
    assert joined([one._replace(pooled=None)] * 2).pooled is None
