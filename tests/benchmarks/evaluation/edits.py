"""An edit of a random picture, and how far results are apart."""

import torch

from benchmarks.evaluation.tasks import EditTask

SOURCE, TARGET = "a cat sits on the mat", "a dog sits on the mat"


def task(target: str = TARGET, w: float = 4.0) -> EditTask:
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return EditTask(latents, SOURCE, target, w, seed=3)


def error(got, expected) -> float:
    """The largest difference, of the largest value."""
    return float((got - expected).abs().max() / expected.abs().max())
