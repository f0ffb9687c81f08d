"""A small whole bundle with a few numbers per network, and the golden published-format files."""

import shutil
from pathlib import Path

import pytest
import torch

from icd_engine.bundles.bundle import write_bundle
from tests.icd_engine.bundles.golden_files import FORWARD, REVERSE, TEACHER

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "sd15"

RECORD = {
    "family": "sd15",
    "encode_times": [19, 259, 519, 779],
    "encode_end": 999,
    "decode_times": [259, 519, 779, 999],
    "size": [512, 512],
    "blend_downscale": 4,
    "share_downscale": 2,
    "defaults": {
        "guidance_scale": 19.0,
        "tau": 0.8,
        "cross_replace": {"default": 0.3, "dog": [0.0, 0.5]},
    },
    "origin": {"made": "by a test"},
}


def small_files() -> dict:
    """Content of every file of a bundle but icd.json."""
    files = {
        "model_index.json": {"_class_name": "StableDiffusionPipeline"},
        "tokenizer/tokenizer_config.json": {"model_max_length": 77},
        "tokenizer/tokenizer.json": "{}",
        "scheduler/scheduler_config.json": {"beta_start": 0.00085},
        "text_encoder/config.json": {"hidden_size": 2},
        "text_encoder/model.safetensors": {"embedding": torch.arange(6.0)},
    }
    for part in ("vae", "unet", "unet_forward"):
        files[f"{part}/config.json"] = {"time_cond_proj_dim": 512}
        files[f"{part}/diffusion_pytorch_model.safetensors"] = {
            "conv.weight": torch.arange(24.0).reshape(2, 3, 4)
        }
    return files


@pytest.fixture
def record() -> dict:
    return dict(RECORD)


@pytest.fixture
def files() -> dict:
    return small_files()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole small bundle on disk."""
    return write_bundle(tmp_path / "bundle", RECORD, small_files().items()).path


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture
def published(golden, tmp_path) -> dict[str, Path]:
    """Arguments of `convert` on a copy that a test may spoil; `out` is the only entry of its
    folder."""
    source = tmp_path / "source"
    source.mkdir()
    shutil.copytree(golden / "base", source / "base", copy_function=shutil.copyfile)
    for name in (FORWARD, REVERSE, TEACHER):
        shutil.copyfile(golden / name, source / name)
    (tmp_path / "made").mkdir()
    paths = {"base": "base", "teacher": TEACHER, "forward": FORWARD, "reverse": REVERSE}
    return {**{key: source / name for key, name in paths.items()}, "out": tmp_path / "made" / "out"}
