"""An independent judge of the world: names the attributes of a picture; trained on true renders
only."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.loop import fit
from training.processes import device
from training.recipe import Part, Recipe
from training.tiny.vae import to_pictures
from training.world.drawing import draw_batch
from training.world.scenes import WORDS, sample_scene

# Half precision, written by the stage `judge`; `judge.safetensors` of a run is its checkpoint
WEIGHTS = Path(__file__).parent / "tiny_judge.safetensors"
RECIPE = Recipe(samples=80_000, batch=32, lr=2e-3, ema=0.99)


class Judge(nn.Module):
    """Pictures [B, 3, 128, 128] in [-1, 1] -> one score vector per kind of word."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 16, 32, 64, 96]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Conv2d(a, b, 5, stride=2, padding=2), nn.BatchNorm2d(b), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.Conv2d(96, 96, 3, padding=1), nn.ReLU())
        self.heads = nn.ModuleDict(
            {kind: nn.Linear(192, len(words)) for kind, words in WORDS.items()}
        )

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        maps = self.features(pictures)
        pooled = torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)
        return {kind: head(pooled) for kind, head in self.heads.items()}

    def words(self, pictures: Tensor) -> list[dict[str, str]]:
        """What each picture shows, by kind of word."""
        with torch.no_grad():
            best = {kind: scores.argmax(dim=1).tolist() for kind, scores in self(pictures).items()}
        return [{kind: WORDS[kind][best[kind][i]] for kind in WORDS} for i in range(len(pictures))]


def loss(judge: Judge, rng: np.random.Generator, count: int) -> Iterator[Part]:
    """Cross-entropy over all kinds of words, on slightly noisy renders: it must not lean on exact
    values."""
    scenes = [sample_scene(rng) for _ in range(count)]
    pictures = to_pictures(draw_batch(scenes)).to(device())
    pictures = pictures + 0.03 * torch.from_numpy(
        rng.standard_normal(pictures.shape, dtype=np.float32)
    ).to(device())
    scores = judge(pictures)
    total = torch.zeros((), device=device())
    right = 0.0
    for kind, words in WORDS.items():
        wanted = torch.tensor(
            [words.index(getattr(scene, kind)) for scene in scenes], device=device()
        )
        total = total + F.cross_entropy(scores[kind], wanted)
        right += float((scores[kind].argmax(1) == wanted).float().mean()) / len(WORDS)
    yield Part("loss", total)
    yield Part("right", torch.tensor(right), weight=0.0)


def train(folder: Path, recipe: Recipe = RECIPE) -> Judge:
    """The trained judge."""
    torch.manual_seed(recipe.seed)
    judge = Judge().to(device())
    fit("judge", folder, recipe, judge, lambda rng, count: loss(judge, rng, count))
    return judge.eval()


def write_judge(judge: Judge, path: Path = WEIGHTS) -> None:
    """Writes it in half precision."""
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in judge.state_dict().items()
    }
    save_file(state, path)


def read_judge(path: Path = WEIGHTS) -> Judge:
    """The judge that evaluations ask, on the CPU."""
    judge = Judge()
    judge.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return judge.eval()
