"""Published variants other than the golden ones: three steps, and a forward model that starts at
the picture itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from icd_engine.bundles.convert import convert
from icd_engine.engine import Engine

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
SOURCE, TARGET = "a cat sits on the mat", "a dog sits on the mat"
PICTURE = Image.open(GOLDEN / "square.png").convert("RGB").resize((128, 128))


@pytest.fixture
def converted(tmp_path):
    """converted(forward name, reverse name): an engine on a bundle of the golden weights under
    these names."""

    def make(forward: str, reverse: str) -> Engine:
        paths = []
        for role, name in (("forward", forward), ("reverse", reverse)):
            path = tmp_path / f"{name}.safetensors"
            path.write_bytes((GOLDEN / "sd15" / f"iCD-SD15-{role}.safetensors").read_bytes())
            paths.append(path)
        base = (GOLDEN / "sd15" / "base", GOLDEN / "sd15" / "sd15_cfg_distill.pt")
        return Engine.from_pretrained(
            convert(*base, *paths, tmp_path / "bundle").path, device="cpu"
        )

    return make


def test_three_steps(converted):
    engine = converted("iCD-SD15-forward_19_339_699", "iCD-SD15-reverse_339_699_999")
    result = engine.edit(PICTURE, SOURCE, TARGET, size=(128, 128))
    assert (engine.bundle.encode_times, engine.bundle.decode_times) == (
        (19, 339, 699),
        (339, 699, 999),
    )
    assert result.network_calls == 6 and result.settings.tau == 0.7
    assert engine.edit(PICTURE, SOURCE, TARGET, size=(128, 128), tau=1.0).network_calls == 6


def test_encoding_may_start_at_the_picture_itself(converted):
    """Inverse-and-Edit's forward model: from t = 0, no noise is added, and a seed changes
    nothing."""
    engine = converted("fcd-forward_0_259_519_779", "iCD-SD15-reverse_259_519_779_999")
    assert engine.bundle.encode_times == (0, 259, 519, 779)
    first, other = (
        engine.invert(PICTURE, SOURCE, seed=seed, size=(128, 128)).latents for seed in (0, 1)
    )
    assert torch.equal(first, other)
    latents = engine.runner.to_latents(torch.from_numpy(np.asarray(PICTURE).copy())[None])
    prompts = engine.runner.encode_prompts([engine.model.tokenizer.encode(SOURCE).ids])
    assert torch.equal(
        first, engine.runner.encode(latents, prompts, engine.model.encode_hops, None)[-1]
    )
    result = engine.edit(PICTURE, SOURCE, TARGET, size=(128, 128))
    assert result.network_calls == 8 and result.latents.isfinite().all()
