"""How many launches a GPU gets for a pass, counted in inductor's programs for CUDA, and what an edit is
counted to take with them: none may come back unseen. Needs a CUDA build of torch (Linux) and no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[3]
MOST = {"text": 171, "unet_encode": 385, "unet_decode": 407, "vae_encode": 86, "vae_decode": 114}
# By what `milliseconds` takes for granted
MOST_MS = {
    "libraries": 50.0,
    "libraries splitting K": 44.0,
    "our kernels where faster": 45.0,
}

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(torch.version.cuda is None, reason="torch was built without CUDA"),
]


def told(module: str, *arguments: str) -> Any:
    """What a module of `tests.cuda_programs` prints."""
    ended = subprocess.run(
        [sys.executable, "-m", f"tests.cuda_programs.{module}", *arguments],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize("stage", MOST)
def test_launches_of_a_pass(stage):
    found = told("launches", stage)
    print(stage, sum(found.values()), found)
    products = "addmm" if stage == "text" else "convolution"
    assert found[products] > 20  # what counts is that the count counts
    assert sum(found.values()) <= MOST[stage], found


def test_what_an_edit_is_counted_to_take():
    found = told("milliseconds")
    assert set(found) == set(MOST_MS)
    for way, stages in found.items():
        print(f"{way}: " + ", ".join(f"{name} {own['all']:.2f}" for name, own in stages.items()))
        assert stages["unet_decode"]["convolutions"] > 1.2 * stages["unet_encode"]["convolutions"]
        assert stages["edit"]["all"] <= MOST_MS[way], stages
