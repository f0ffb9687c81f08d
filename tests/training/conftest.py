"""Base models of random weights, as a distillation starts from."""

import shutil
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


@pytest.fixture(scope="session")
def base(two_pass_bundle, tmp_path_factory) -> Path:
    """A diffusers folder of SD1.5's kind without guidance embedding, 64x64 pictures, 8x8
    latents."""
    folder = tmp_path_factory.mktemp("training") / "base"
    shutil.copytree(
        two_pass_bundle, folder, ignore=shutil.ignore_patterns("unet_forward", "icd.json")
    )
    return folder


@pytest.fixture(scope="session")
def sdxl_base() -> Path:
    return GOLDEN / "sdxl" / "base"
